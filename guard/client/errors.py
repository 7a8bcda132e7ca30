"""How calls of the SDK fail.

::

    GuardError
    └── ClientError                        a call did not bring what was asked for
        ├── InputRejected                  Guard's policy rejects the input; never worth a retry
        │   └── AdversarialInputRejected   ... because it is judged adversarial
        ├── CallFailed                     the call failed, at Guard or at the server
        │   └── DeadlinePassed             ... or took longer than allowed
        └── NotGuarded                     an answer without a verdict, where one is required
"""

from __future__ import annotations

from guard.errors import GuardError
from guard.values import Verdict


class ClientError(GuardError):
    """A call did not bring what was asked for."""

    code = "client"


class InputRejected(ClientError):
    """Guard's policy rejects the input.

    `items` are the positions in the batch that it is rejected for, as far as Guard names them; `items_omitted` counts
    the others. `id` finds the decision in Guard's log, and `reason` says it in words. `approximate`: Guard decoded an
    image itself, and the server would perhaps have seen another.
    """

    code = "input_rejected"

    def __init__(
        self,
        reason: str,
        *,
        id: str,  # noqa: A002 - the protocol's name for it
        verdict: Verdict,
        items: tuple[int, ...],
        items_omitted: int,
        approximate: bool = False,
    ) -> None:
        super().__init__(f"{reason} (decision {id})")
        self.reason = reason
        self.id = id
        self.verdict = verdict
        self.items = items
        self.items_omitted = items_omitted
        self.approximate = approximate


class AdversarialInputRejected(InputRejected):
    """Guard judged the input adversarial."""

    code = "adversarial_input"


class CallFailed(ClientError):
    """The call failed.

    `status` is a gRPC status, over HTTP the one that means the same. `id` finds it in Guard's log, where it was Guard
    that refused. What tritonclient raised is the `__cause__`.
    """

    code = "call_failed"

    def __init__(self, status: str, message: str, *, id: str | None = None) -> None:  # noqa: A002 - as above
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.id = id


class DeadlinePassed(CallFailed):
    """The call took longer than allowed, retries included."""

    code = "deadline_passed"

    def __init__(self, message: str, *, id: str | None = None) -> None:  # noqa: A002 - as above
        super().__init__("DEADLINE_EXCEEDED", message, id=id)


class NotGuarded(ClientError):
    """The answer has no verdict: no Guard is on the way, or one that only watches. The server has run the model."""

    code = "not_guarded"
