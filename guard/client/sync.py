"""The client for code that waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
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

    def infer(
        self, model: str, inputs: Sequence[Any], headers: dict[str, str], attempts: Attempts, options: Options
    ) -> Any: ...


class Client:
    """Calls Guard, or a server without it, at an address such as `grpc://127.0.0.1:8011` or `https://guard:8443`.

    `deadline_s` is how long a call may take with all its attempts (None: for ever). `headers` is asked for those of
    each call, for example for the `traceparent` of the current span. With `require_verdict`, an answer without a
    verdict is an error. Over HTTP a client belongs to one thread, as tritonclient's does.

    Raises:
        ConfigError: the address, or a file of `tls`, can't be used; no connection is made to find that out.
        EnvironmentProblem: tritonclient is not installed.
    """

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def triton(self) -> Any:
        """The client of tritonclient beneath, for all else: `client.triton.get_model_metadata("digits")`."""
        return self._stock.client

    def tensor(self, name: str, values: Any) -> Any:
        """An InferInput that holds a numpy array.

        Raises:
            ConfigError: it is none, or of a type that the protocol doesn't have.
        """
        return self._caller.tensor(name, values)

    def infer(
        self,
        model_name: str,
        inputs: Sequence[Any],
        *,
        deadline_s: float | None = None,
        headers: Headers | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Have a model run on inputs.

        Raises:
            AdversarialInputRejected, InputRejected: Guard's policy rejects them.
            DeadlinePassed, CallFailed: there is no answer.
            ConfigError: a header can't be sent, or the client is closed.
            NotGuarded: there is no verdict, with `require_verdict`.
        """
        result = self._call(model_name, inputs, deadline_s, self._caller.headers(headers), options)
        parameters = stock.parameters_of(result.get_response())
        return reading.answer(result, parameters, required=self._require_verdict)

    def screen_only(
        self,
        model_name: str,
        inputs: Sequence[Any],
        *,
        deadline_s: float | None = None,
        headers: Headers | None = None,
        **options: Unpack[Options],
    ) -> Screened:
        """Have inputs judged, and no model run: Guard's policy has to allow it. A rejection is no error here.

        A server without Guard knows nothing of it and runs the model, which the answer says (`executed`).

        Raises:
            DeadlinePassed, CallFailed: there is no answer.
            ConfigError: a header can't be sent, or the client is closed.
            NotGuarded: there is no verdict, with `require_verdict`.
        """
        asked = self._caller.headers(headers) | SCREEN_ONLY
        result = self._call(model_name, inputs, deadline_s, asked, options)
        return reading.screened(stock.parameters_of(result.get_response()), required=self._require_verdict)

    def close(self) -> None:
        """Close the connection, for good."""
        self._caller.closed = True
        self._stock.client.close()

    def _call(
        self, model: str, inputs: Sequence[Any], deadline_s: float | None, headers: dict[str, str], options: Options
    ) -> Any:
        attempts = self._caller.attempts(deadline_s, options)
        while True:
            try:
                return self._stock.infer(model, inputs, dict(headers), attempts, options)
            except CallFailed as error:
                wait_s = attempts.wait_after(error)
            time.sleep(wait_s)


class _Grpc:
    def __init__(self, address: Address, tls: Tls | None) -> None:
        self._triton = stock.module("grpc")
        self.client = self._triton.InferenceServerClient(address.target, **stock.of_grpc(tls))

    def infer(
        self, model: str, inputs: Sequence[Any], headers: dict[str, str], attempts: Attempts, options: Options
    ) -> Any:
        try:
            return self.client.infer(model, inputs, headers=headers, client_timeout=attempts.remaining_s(), **options)
        except self._triton.InferenceServerException as error:
            raise reading.failure(error.status(), error.message()) from error


class _Http:
    def __init__(self, address: Address, tls: Tls | None) -> None:
        self._triton = stock.module("http")
        self._address = address
        # Files are read once: where they are gone since, a call that took too long still says that, and no more.
        self._context = None if tls is None else cache(partial(_context, tls))
        self.client = self._made()

    def infer(
        self, model: str, inputs: Sequence[Any], headers: dict[str, str], attempts: Attempts, options: Options
    ) -> Any:
        import gevent  # noqa: PLC0415 - with tritonclient only
        from geventhttpclient.response import HTTPParseError  # noqa: PLC0415 - as gevent

        try:
            with gevent.Timeout(attempts.remaining_s()):
                return self.client.infer(model, inputs, headers=headers, **options)
        except self._triton.InferenceServerException as error:
            raise reading.failure(error.status(), error.message()) from error
        except gevent.Timeout as error:
            self.client.close()  # the connection was left in the middle of an answer
            self.client = self._made()
            raise attempts.out_of_time() from error
        except (OSError, HTTPParseError) as error:
            raise reading.unreachable(error) from error

    def _made(self) -> Any:
        # What a call may take is for its deadline to say.
        return self._triton.InferenceServerClient(
            self._address.target,
            ssl=self._context is not None,
            ssl_context_factory=self._context,
            connection_timeout=None,
            network_timeout=None,
        )


def _context(tls: Tls, cafile: str) -> Any:
    """A context of gevent's. Its `create_default_context` makes one of Python's, whose handshake no deadline ends.

    `cafile` has the usual authorities, for where `tls` names none.
    """
    import gevent.ssl  # noqa: PLC0415 - with tritonclient only

    class Context(gevent.ssl.SSLContext):  # type: ignore[misc]  # gevent has no types
        def wrap_socket(self, sock: Any, **options: Any) -> Any:
            made = super().wrap_socket(sock, **options, do_handshake_on_connect=False)
            try:
                made.do_handshake()
            except BaseException:  # a deadline is one: gevent would leave the socket open
                made.close()
                raise
            return made

    context = Context(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.ca_file or cafile)
    if tls.certificate_file is not None:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    return context
