"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, Unpack

from guard.client import reading, stock
from guard.client.attempts import Attempts
from guard.client.calls import DEADLINE_S, SCREEN_ONLY, Caller, Headers
from guard.client.errors import CallFailed
from guard.client.values import Address, Answer, Options, Retry, Screened, Tls


class _Stock(Protocol):
    """One of tritonclient's clients."""

    client: Any

    async def infer(
        self, model: str, inputs: Sequence[Any], headers: dict[str, str], attempts: Attempts, options: Options
    ) -> Any: ...


class AsyncClient:
    """As `Client`, for asyncio. Make it where a loop runs: connections belong to that loop."""

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        deadline_s: float | None = DEADLINE_S,
        headers: Callable[[], Headers] | None = None,
        require_verdict: bool = False,
    ) -> None:
        self._caller = Caller(address, tls, retry, deadline_s, headers)
        self._require_verdict = require_verdict
        made = _Http if self._caller.address.http else _Grpc
        self._stock: _Stock = made(self._caller.address, self._caller.tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def triton(self) -> Any:
        """The client of tritonclient beneath, for all else that it can do."""
        return self._stock.client

    def tensor(self, name: str, values: Any) -> Any:
        """An InferInput that holds a numpy array."""
        return self._caller.tensor(name, values)

    async def infer(
        self,
        model_name: str,
        inputs: Sequence[Any],
        *,
        deadline_s: float | None = None,
        headers: Headers | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """As `Client.infer`."""
        result = await self._call(model_name, inputs, deadline_s, self._caller.headers(headers), options)
        parameters = stock.parameters_of(result.get_response())
        return reading.answer(result, parameters, required=self._require_verdict)

    async def screen_only(
        self,
        model_name: str,
        inputs: Sequence[Any],
        *,
        deadline_s: float | None = None,
        headers: Headers | None = None,
        **options: Unpack[Options],
    ) -> Screened:
        """As `Client.screen_only`."""
        asked = self._caller.headers(headers) | SCREEN_ONLY
        result = await self._call(model_name, inputs, deadline_s, asked, options)
        return reading.screened(stock.parameters_of(result.get_response()), required=self._require_verdict)

    async def close(self) -> None:
        """Close the connection, for good."""
        self._caller.closed = True
        await self._stock.client.close()

    async def _call(
        self, model: str, inputs: Sequence[Any], deadline_s: float | None, headers: dict[str, str], options: Options
    ) -> Any:
        attempts = self._caller.attempts(deadline_s, options)
        while True:
            try:
                return await self._stock.infer(model, inputs, dict(headers), attempts, options)
            except CallFailed as error:
                wait_s = attempts.wait_after(error)
            await asyncio.sleep(wait_s)


class _Grpc:
    def __init__(self, address: Address, tls: Tls | None) -> None:
        self._triton = stock.module("grpc.aio")
        self.client = self._triton.InferenceServerClient(address.target, **stock.of_grpc(tls))

    async def infer(
        self, model: str, inputs: Sequence[Any], headers: dict[str, str], attempts: Attempts, options: Options
    ) -> Any:
        try:
            return await self.client.infer(
                model, inputs, headers=headers, client_timeout=attempts.remaining_s(), **options
            )
        except self._triton.InferenceServerException as error:
            raise reading.failure(error.status(), error.message()) from error


class _Http:
    def __init__(self, address: Address, tls: Tls | None) -> None:
        self._triton = stock.module("http.aio")
        context = True if tls is None else stock.context_of(tls)
        # What a call may take is for its deadline to say.
        self.client = self._triton.InferenceServerClient(
            address.target, ssl=tls is not None, ssl_context=context, conn_timeout=None
        )

    async def infer(
        self, model: str, inputs: Sequence[Any], headers: dict[str, str], attempts: Attempts, options: Options
    ) -> Any:
        import aiohttp  # noqa: PLC0415 - with tritonclient only

        try:
            async with asyncio.timeout(attempts.remaining_s()):
                return await self.client.infer(model, inputs, headers=headers, **options)
        except self._triton.InferenceServerException as error:
            raise reading.failure(error.status(), error.message()) from error
        except TimeoutError as error:
            raise attempts.out_of_time() from error
        except (OSError, aiohttp.ClientError) as error:
            raise reading.unreachable(error) from error
