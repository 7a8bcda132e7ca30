"""A model server in Python that screens what it is sent: a plain ASGI application, as FastAPI makes them too.

POST /classify takes `{"pixels": [[...], ...]}`, 8 rows of 8 numbers from 0 to 1, and answers `{"label": 3, ...}`. What
Guard rejects is answered with 422 and the id of the decision.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from prometheus_client import generate_latest

from guard.errors import RequestError
from guard.inprocess import Guard
from guard.values import Action

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]


class App:
    """Serves one classifier."""

    def __init__(self, guard: Guard, session: onnxruntime.InferenceSession) -> None:
        self._guard = guard
        self._session = session

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        match scope["method"], scope["path"]:
            case "POST", "/classify":
                status, answer = await self._classify(await _body(receive), client=scope["client"][0])
                await _send(send, status, b"application/json", json.dumps(answer).encode())
            case "GET", "/metrics":
                await _send(send, HTTPStatus.OK, b"text/plain", generate_latest(self._guard.registry))
            case _:
                await _send(send, HTTPStatus.NOT_FOUND, b"text/plain", b"POST /classify or GET /metrics\n")

    async def _classify(self, body: bytes, *, client: str) -> tuple[HTTPStatus, dict[str, Any]]:
        try:
            batch = np.array(json.loads(body)["pixels"], np.float32)[None, None]
            decision = await self._guard.screen_async(batch, client=client)
        except (ValueError, KeyError, TypeError, RequestError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        told = {"verdict": decision.verdict, "id": decision.id}
        if decision.action is Action.REJECT:
            return HTTPStatus.UNPROCESSABLE_ENTITY, {"error": "the input was rejected", **told}
        (logits,) = await asyncio.to_thread(self._session.run, None, {self._session.get_inputs()[0].name: batch})
        return HTTPStatus.OK, {"label": int(logits[0].argmax()), **told}


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _send(send: Send, status: HTTPStatus, kind: bytes, body: bytes) -> None:
    await send({"type": "http.response.start", "status": int(status), "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})
