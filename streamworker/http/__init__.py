"""What a worker tells over HTTP: metrics, probes, and what autoscalers ask for. Needs the extra ``http``."""

from streamworker.http.server import Address, serving
from streamworker.http.view import View

__all__ = ["Address", "View", "serving"]
