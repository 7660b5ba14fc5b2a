"""The errors of serving.

    NormfoldError
    ├── InputError
    │   ├── RequestError                the client's request cannot be answered as it stands
    │   │   ├── InvalidRequestError               its body is not what the protocol or the model takes
    │   │   ├── UnsuitableModelError    the model cannot do what this route is for
    │   │   ├── UnknownModelError       no model, or no version of it, has that name
    │   │   ├── NoSamplesError        its recent inputs are not kept
    │   │   ├── ControlError            loading and unloading is not for clients
    │   │   ├── UnauthenticatedError              no key came with the request, or none that opens anything
    │   │   ├── ScopeError              its key is for something else
    │   │   ├── RateError               its key has asked too often
    │   │   ├── UnknownPathError        there is no such path
    │   │   ├── BodyTooLargeError
    │   │   └── ResponseTooLargeError     its answer would be larger than any may be
    │   ├── SettingsError               an option or environment variable is wrong          (start)
    │   │   └── KeysError               the file of keys is missing or broken               (start, commands)
    │   └── BundleError                 a bundle cannot be trusted or loaded                (load)
    ├── SetupError
    │   ├── ProviderError               a provider was asked for and not got                (load)
    │   ├── KeysUnwritableError         the file of keys cannot be written                  (commands)
    │   └── AddressError                the host and port cannot be listened on             (start)
    └── ServingError                    the request is right, and the service cannot answer it
        ├── ModelUnavailableError       the model is loading, or could not be loaded
        ├── QueueFullError              as many rows wait as may
        ├── BodyBudgetError             large bodies take as much memory as they may
        ├── ResponseBudgetError            answers that nobody has read yet take as much memory as they may
        ├── DeadlineError               the request's time was up before its answer was there
        ├── ClientDisconnectedError             the client is gone: nobody reads the answer
        ├── UnloadedError               the model was unloaded while the request waited
        ├── RunError                    the network failed while it ran
        └── UnwritableOutputError       an output holds what JSON cannot carry

Which HTTP status each has stands in one table, `http_errors.py`.
"""

from __future__ import annotations

from pathlib import Path

from normfold.contract.errors import InputError, NormfoldError, SetupError


class RequestError(InputError):
    """The client's request cannot be answered as it stands."""


class InvalidRequestError(RequestError):
    """The body is not what the protocol or the model takes."""


class UnsuitableModelError(RequestError):
    """The model cannot do what this route is for."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"Model {model!r} {reason}")
        self.model, self.reason = model, reason


class UnknownModelError(RequestError):
    """No model has that name, or the model has no such version."""

    def __init__(self, model: str, version: str | None = None) -> None:
        named = f"model {model!r}" if version is None else f"version {version!r} of model {model!r}"
        super().__init__(f"There is no {named}; GET /v1/models lists what there is.")
        self.model, self.version = model, version


class NoSamplesError(RequestError):
    """Recent inputs of a model are asked for, and none are kept."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"No recent inputs of {model!r} are kept: the operator has not asked for it (NORMFOLD_KEEP_SAMPLES), or "
            "its bundle is not watched."
        )


class ControlError(RequestError):
    """Loading and unloading is not for clients."""

    def __init__(self, model_control: str) -> None:
        super().__init__(
            f"Models are not loaded or unloaded by request: model_control is {model_control!r}, not 'explicit'."
        )
        self.model_control = model_control


class UnauthenticatedError(RequestError):
    """No key came with the request, or none that opens anything: which of the two is not said."""

    def __init__(self) -> None:
        super().__init__("This needs a key; send a valid one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")


class ScopeError(RequestError):
    """The request's key is for something else."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs a key with the scope {scope!r}.")
        self.scope = scope


class RateError(RequestError):
    """The request's key has asked too often."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            f"The key has asked too often. Try again in {retry_after_s} second{'s' * (retry_after_s > 1)}."
        )
        self.retry_after_s = retry_after_s


class UnknownPathError(RequestError):
    """There is no such path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"There is no path {path!r}; GET /docs describes those there are.")
        self.path = path


class BodyTooLargeError(RequestError):
    """The body is over the limit."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(f"The body is over the limit of {max_body_bytes:,} bytes.")
        self.max_body_bytes = max_body_bytes


class ResponseTooLargeError(RequestError):
    """The answer alone would take more memory than all answers may."""

    def __init__(self, size: int, max_response_bytes: int) -> None:
        super().__init__(
            f"The response would have {size:,} bytes, over the limit of {max_response_bytes:,}; "
            "ask for fewer rows at once."
        )
        self.size, self.max_response_bytes = size, max_response_bytes


class SettingsError(InputError):
    """An option or environment variable is wrong."""


class KeysError(SettingsError):
    """The file of keys is missing or broken, or cannot be changed as was asked."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"The file of keys {str(path)!r} {problem}")
        self.path, self.problem = path, problem


class BundleError(InputError):
    """A bundle cannot be trusted or loaded."""


class ProviderError(SetupError):
    """A provider was asked for and not got."""

    def __init__(self, provider: str, got: str, remedy: str) -> None:
        super().__init__(f"The provider {provider!r} was asked for and {got}; {remedy}")
        self.provider, self.got = provider, got


class KeysUnwritableError(SetupError):
    """The file of keys cannot be written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"The file of keys {str(path)!r} cannot be written: {problem}.")
        self.path, self.problem = path, problem


class AddressError(SetupError):
    """The host and port cannot be listened on."""

    def __init__(self, host: str, port: int, problem: str) -> None:
        super().__init__(f"Cannot listen on {host}:{port}: {problem}")
        self.host, self.port, self.problem = host, port, problem


class ServingError(NormfoldError):
    """The request is right, and the service cannot answer it."""


class ModelUnavailableError(ServingError):
    """The model is loading, or could not be loaded."""

    def __init__(self, model: str, version: str | None, reason: str) -> None:
        named = f"Model {model!r}" if version is None else f"Version {version} of model {model!r}"
        super().__init__(f"{named} is not ready: {reason}")
        self.model, self.version, self.reason = model, version, reason


class QueueFullError(ServingError):
    """As many rows wait for the model as may."""

    def __init__(self, queue_capacity: int, retry_after_s: int) -> None:
        super().__init__(
            f"The model's queue is full: {queue_capacity} rows may wait. Try again in {retry_after_s} "
            f"second{'s' * (retry_after_s > 1)}."
        )
        self.queue_capacity, self.retry_after_s = queue_capacity, retry_after_s


class BodyBudgetError(ServingError):
    """Large bodies of other requests take as much memory as they may."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("Too many large requests are being answered; try again in 1 second.")


class ResponseBudgetError(ServingError):
    """Answers that their clients have not read yet take as much memory as they may."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("Too many large answers wait to be read by their clients; try again in 1 second.")


class DeadlineError(ServingError):
    """The request's time was up before its answer was there."""

    def __init__(self) -> None:
        super().__init__("The request's deadline passed before the model had answered it.")


class ClientDisconnectedError(ServingError):
    """The client is gone: nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__("The client left before its answer was there.")


class UnloadedError(ServingError):
    """The model was unloaded while the request waited."""

    def __init__(self) -> None:
        super().__init__("The model was unloaded before it could answer; try again.")


class RunError(ServingError):
    """The network failed while it ran; what ONNX Runtime said is for the log, not for the client."""

    def __init__(self, detail: str) -> None:
        super().__init__("The network failed while it ran; the service's log has the reason under this request's id.")
        self.detail = detail


class UnwritableOutputError(ServingError):
    """An output holds what JSON cannot carry."""

    def __init__(self, output: str) -> None:
        super().__init__(f"Output {output!r} holds NaN or Infinity, which JSON cannot carry.")
        self.output = output
