"""The client SDK: tritonclient, with Guard's verdicts.

`Client` and `AsyncClient` speak gRPC or HTTP, by the scheme of the address. Inputs, requested outputs and results are
tritonclient's own; results come with the verdict, a rejection is an exception, and what may be repeated is. In front of
a server without Guard all works alike, and no result has a verdict.
"""

from guard.client.aio import AsyncClient
from guard.client.errors import (
    AdversarialInputRejected,
    CallFailed,
    ClientError,
    DeadlinePassed,
    InputRejected,
    NotGuarded,
)
from guard.client.sync import Client
from guard.client.values import Answer, Options, Retry, Screened, Tls
from guard.values import Action, Verdict

__all__ = [
    "Action",
    "AdversarialInputRejected",
    "Answer",
    "AsyncClient",
    "CallFailed",
    "Client",
    "ClientError",
    "DeadlinePassed",
    "InputRejected",
    "NotGuarded",
    "Options",
    "Retry",
    "Screened",
    "Tls",
    "Verdict",
]
