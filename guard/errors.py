"""Every error Guard raises on purpose.

::

    GuardError
    ├── ConfigError            a setting or policy is wrong
    │   ├── AddressUnusable    ... an address to listen on
    │   └── FileUnusable       ... a file that it names
    ├── EnvironmentProblem     the installation can't do what was asked
    │   └── ProviderMissing    ... run a model where it was asked to
    ├── DataError              calibration or evaluation data can't be used
    ├── ProfileError           a profile can't be read
    │   ├── ProfileMismatch    ... or was made for another model
    │   └── RateUnsupported    ... or holds too few samples for the false-positive rate
    ├── RequestError           a request can't be understood or isn't allowed
    │   ├── MalformedRequest   broken protobuf, a shape that disagrees with the bytes, a wrong dtype
    │   ├── NonFiniteInput     NaN or infinity in a tensor
    │   ├── MessageTooLarge    more bytes than `upstream.max_message_bytes`, or more values than are read at once
    │   ├── RequestTooSlow     a body that did not arrive in time, or answers that were not taken
    │   ├── MethodDenied       a method that Guard never lets through
    │   ├── ModelNotListed     a model that the policy doesn't name
    │   └── Unsupported        a method, or a form of one, that Guard doesn't know
    │       ├── UnknownPath    ... a path of HTTP
    │       └── WrongMethod    ... POST to a path that only answers GET, or the reverse
    ├── ScreeningError         Guard was unable to screen
    │   ├── Overloaded         the queue is full
    │   ├── DeadlineExceeded   the time allowed ran out
    │   ├── EngineStopped      the engine thread isn't running
    │   └── OtherShape         items of a shape that the model takes and the profile does not know
    ├── BackendError           a replica failed
    │   └── BackendTimeout     ... or did not answer in time
    ├── UpstreamUnavailable    the guarded server can't be reached
    └── SeveralProblems        more than one of the above, found together

Those of the SDK are in guard/client/errors.py, and PolicyUnusable, a ConfigError, is in guard/config_file/document.py.

Each class carries a stable `code` for logs and an `exit_code` for the command line. Messages are written for the
person who must act: what is wrong, then what to do. Foreign exceptions are translated where they enter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class GuardError(Exception):
    """Base of every error that Guard raises on purpose."""

    code = "guard_error"
    exit_code = 1


class ConfigError(GuardError):
    """A setting or policy is wrong."""

    code = "config"
    exit_code = 2


class AddressUnusable(ConfigError):
    """Guard can't listen on an address. `setting` is the name of the setting, or of the option, that said so."""

    code = "address"

    def __init__(self, address: str, setting: str, why: str) -> None:
        super().__init__(f"can't listen on {address}: {why}; stop what uses it, or set {setting} to another")
        self.address = address
        self.setting = setting
        self.why = why


class FileUnusable(ConfigError):
    """A file that a setting names can't be used. `setting` is the name of the setting."""

    code = "file"

    def __init__(self, setting: str, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.setting = setting
        self.problem = problem
        self.remedy = remedy


class EnvironmentProblem(GuardError):
    """The installation can't do what was asked, for example two ONNX Runtime wheels installed together."""

    code = "environment"
    exit_code = 3


class ProviderMissing(EnvironmentProblem):
    """ONNX Runtime can't run a model where it was asked to, such as on a GPU."""

    code = "provider"


class DataError(GuardError):
    """Calibration or evaluation data can't be used."""

    code = "data"
    exit_code = 4


class ProfileError(GuardError):
    """A profile can't be read."""

    code = "profile"
    exit_code = 5


class ProfileMismatch(ProfileError):
    """A profile was made for another model."""

    code = "profile_mismatch"


class RateUnsupported(ProfileError):
    """A profile holds too few benign samples for the false-positive rate that was asked for."""

    code = "rate_unsupported"


class RequestError(GuardError):
    """A request can't be understood or isn't allowed."""

    code = "request"


class MalformedRequest(RequestError):
    """Broken protobuf, a shape that disagrees with the bytes, a wrong dtype."""

    code = "malformed_request"


class NonFiniteInput(RequestError):
    """A tensor holds NaN or infinity, which no detector can judge."""

    code = "non_finite_input"


class MessageTooLarge(RequestError):
    """A message of more bytes than `upstream.max_message_bytes`, in either direction; or of more than Guard parses."""

    code = "message_too_large"


class RequestTooSlow(RequestError):
    """A body that did not arrive in time, or a stream whose client does not take its answers."""

    code = "request_too_slow"


class MethodDenied(RequestError):
    """A method that Guard never lets through, because it would change what was screened."""

    code = "method_denied"


class ModelNotListed(RequestError):
    """A request for a model that the policy does not name."""

    code = "model_not_listed"


class Unsupported(RequestError):
    """A method that Guard doesn't know."""

    code = "unimplemented"


class UnknownPath(Unsupported):
    """A path of HTTP that the protocol doesn't have."""

    code = "unknown_path"


class WrongMethod(Unsupported):
    """A method of HTTP that a path does not answer."""

    code = "wrong_method"


class ScreeningError(GuardError):
    """Guard was unable to screen."""

    code = "screening"


class Overloaded(ScreeningError):
    """The queue is full, or so long that it takes `takes_s` seconds to be screened, which is too long."""

    code = "overloaded"

    def __init__(self, message: str, *, takes_s: float = math.inf) -> None:
        super().__init__(message)
        self.takes_s = takes_s


class DeadlineExceeded(ScreeningError):
    """The time allowed for a request ran out."""

    code = "deadline_exceeded"


class EngineStopped(ScreeningError):
    """The engine thread isn't running."""

    code = "engine_stopped"


class OtherShape(ScreeningError):
    """Items of a shape that the model takes, and that the profile knows nothing of. `items` is how many."""

    code = "other_shape"

    def __init__(self, message: str, items: int) -> None:
        super().__init__(message)
        self.items = items


class BackendError(GuardError):
    """A replica of the guarded model failed."""

    code = "backend"
    exit_code = 6


class BackendTimeout(BackendError):
    """A replica did not answer in time."""

    code = "backend_timeout"


class UpstreamUnavailable(GuardError):
    """The guarded server can't be reached."""

    code = "upstream_unavailable"
    exit_code = 7


class SeveralProblems(GuardError):
    """More than one thing is wrong, and all were found together. It ends a command with the exit code of the first."""

    code = "several"

    def __init__(self, problems: Sequence[GuardError]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        self.exit_code = self.problems[0].exit_code
