"""The paths: /metrics, /livez, /readyz and /scale."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from streamworker.errors import BrokerError
from streamworker.http.sampler import Sampler
from streamworker.http.view import View
from streamworker.logs import clean

_NAMES = ("stream", "group")
_PATIENCE = 3.0  # seconds; whoever scales asks again


class Site:
    """Answers what is asked over HTTP."""

    def __init__(self, view: View, sampler: Sampler, registry: CollectorRegistry) -> None:
        self._view = view
        self._sampler = sampler
        self._registry = registry

    def app(self) -> Starlette:
        """For the server to run."""
        paths = {"/metrics": self._metrics, "/livez": self._livez, "/readyz": self._readyz, "/scale": self._scale}
        return Starlette(routes=[Route(path, answer) for path, answer in paths.items()])

    async def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"Content-Type": kind})

    async def _livez(self, request: Request) -> Response:
        return _verdict(self._view.stalled())

    async def _readyz(self, request: Request) -> Response:
        return _verdict(self._view.not_ready())

    async def _scale(self, request: Request) -> Response:
        stream, group = (request.query_params.get(name) for name in _NAMES)
        if stream is None or group is None:
            return JSONResponse({"error": "say which: /scale?stream=orders&group=billing"}, 400)
        ours = {(one.group.stream, one.group.name) for one in self._view.worker.seen()}
        if (stream, group) not in ours:
            return JSONResponse({"error": "this worker does not consume that"}, 404)
        try:
            async with asyncio.timeout(_PATIENCE):
                status = await self._sampler.now(stream)
        except (BrokerError, TimeoutError):
            return JSONResponse({"error": "Redis does not answer"}, 503)
        found = next((one for one in status.groups if one.group == group and one.exists), None)
        if found is None:
            return JSONResponse({"error": "the group is not there"}, 503)
        names = ("backlog", "lag", "pending", "retries")
        return JSONResponse({name: getattr(found, name) for name in names})


def _verdict(problems: Sequence[str]) -> Response:
    if problems:
        return PlainTextResponse("\n".join(map(clean, problems)) + "\n", 503)
    return PlainTextResponse("ok\n")
