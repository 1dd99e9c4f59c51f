"""What operators do to streams and groups: from the command line, and from Python by ``App.operator``."""

from streamworker.operating.operator import Operator

__all__ = ["Operator"]
