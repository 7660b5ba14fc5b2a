"""The errors of the service.

    NormfoldError
    ├── InputError
    │   ├── RequestError                the request is wrong, or not allowed
    │   │   ├── InvalidRequestError     its body is not what the protocol or the model takes
    │   │   ├── MalformedRequestError   it is not HTTP
    │   │   ├── AmbiguousRequestError   its headers can be read in two ways
    │   │   ├── HeadersTooLargeError    its headers are over the limit
    │   │   ├── ReceiveTimeoutError     it did not arrive in time
    │   │   ├── UnsuitableModelError    the model does not support the route
    │   │   ├── UnknownModelError       no model, or no version of it, has that name
    │   │   ├── UnknownPathError        no route has that path
    │   │   ├── NoSamplesError          recent inputs of the model are not kept
    │   │   ├── ControlError            model_control does not allow loading models by request
    │   │   ├── RolloutError            a version cannot be the shadow or the canary, or cannot be promoted
    │   │   ├── NoRolloutError          the model has no shadow, or no canary
    │   │   ├── UnauthenticatedError    the request has no valid key
    │   │   ├── ScopeError              its key lacks the required scope
    │   │   ├── ForeignOriginError      a web page of another origin wants to change state
    │   │   ├── ForeignHostError        it would change state, under a host name that a page may have chosen
    │   │   ├── RateError               its key is over its rate limit
    │   │   ├── ContentEncodingError    its Content-Encoding is not supported
    │   │   ├── BodyTooLargeError       its body is over the limit
    │   │   ├── ResponseTooLargeError   its response would be over the limit
    │   │   ├── FailingTensorsError     the network fails on its tensors alone
    │   │   └── UnwritableOutputError   an output for it has values that JSON cannot carry
    │   ├── SettingsError               an option or environment variable is wrong          (start)
    │   │   ├── KeysError               the key file is missing or broken                   (start, commands)
    │   │   └── TlsError                a file of a certificate or key cannot be used       (start, SIGHUP)
    │   └── BundleLoadError             a bundle cannot be trusted or loaded                (load)
    ├── SetupError
    │   ├── ProviderError               the requested provider is not available             (load)
    │   ├── KeysUnwritableError         the key file cannot be written                      (commands)
    │   ├── StateDirError               the state folder cannot be written                  (start)
    │   ├── AddressError                the host and port cannot be listened on             (start)
    │   ├── UnixSocketError             the Unix socket cannot be listened on               (start)
    │   └── SocketActivationError       a socket from systemd cannot be listened on         (start)
    └── ServingError                    the request is right, and the service cannot serve it
        ├── ModelUnavailableError       the model is loading, or could not be loaded
        ├── ConnectionLimitError        too many connections are open
        ├── CallLimitError              too many gRPC calls are being answered
        ├── QueueFullError              the model's queue is full
        ├── BodyBudgetError             large bodies use the whole byte budget
        ├── ResponseBudgetError         large responses use the whole byte budget
        ├── DeadlineError               the deadline passed before the model had answered
        ├── ClientDisconnectedError     the client disconnected
        ├── UnloadedError               the model was unloaded while the request was queued
        ├── StoppingError               the grace period of shutdown ended before the response
        └── RunError                    the network failed while it ran

`service.error_responses` has the HTTP status of each in one table.
"""

from __future__ import annotations

import re
from pathlib import Path

from normfold.contract.errors import InputError, NormfoldError, SetupError

NO_SHARED_MEMORY = (
    "the service has no shared memory with its clients (Triton's shared memory extension); send tensors in the request."
)

_SHARED_MEMORY_PATH = re.compile(r"/v2/(system|cuda)sharedmemory(/|$)")


class RequestError(InputError):
    """The request is wrong, or not allowed."""


class InvalidRequestError(RequestError):
    """The body is not what the protocol or the model takes."""


class MalformedRequestError(RequestError):
    """The bytes on a connection are not an HTTP request."""

    def __init__(self) -> None:
        super().__init__("Invalid HTTP request received.")


class HeadersTooLargeError(RequestError):
    """The headers are over the limit."""

    def __init__(self, max_header_bytes: int) -> None:
        super().__init__(f"The headers are over the limit of {max_header_bytes:,} bytes.")
        self.max_header_bytes = max_header_bytes


class ReceiveTimeoutError(RequestError):
    """The request did not arrive in time."""

    def __init__(self, receive_timeout_s: float) -> None:
        super().__init__(f"The request did not arrive completely within {receive_timeout_s:g} s.")
        self.receive_timeout_s = receive_timeout_s


class AmbiguousRequestError(RequestError):
    """The headers can be read in two ways: by the service, and by a proxy in front of it (request smuggling)."""


class UnsuitableModelError(RequestError):
    """The model does not support the route."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"Model {model!r} {reason}")
        self.model, self.reason = model, reason


class UnknownModelError(RequestError):
    """No model has that name, or the model has no such version."""

    def __init__(
        self, model: str, version: str | None = None, advice: str = "GET /v1/models lists the models."
    ) -> None:
        named = f"model {model!r}" if version is None else f"version {version!r} of model {model!r}"
        super().__init__(f"There is no {named}; {advice}")
        self.model, self.version = model, version


class NoSamplesError(RequestError):
    """Recent inputs of a model are requested, and are not kept."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"No recent inputs of {model!r} are kept: the operator has not asked for it (NORMFOLD_KEEP_SAMPLES), or "
            "its drift is not monitored."
        )


class ControlError(RequestError):
    """The setting model_control does not allow a change by request, such as loading and unloading models."""

    def __init__(self, model_control: str, what: str = "Models are not loaded or unloaded by request") -> None:
        super().__init__(f"{what}: model_control is {model_control!r}, not 'explicit'.")
        self.model_control = model_control


class RolloutError(RequestError):
    """A version cannot be the shadow or the canary of its model, or cannot be promoted."""


class NoRolloutError(RequestError):
    """A model has no shadow, or no canary."""

    def __init__(self, model: str, kind: str) -> None:
        super().__init__(
            f"Model {model!r} has no {kind}; POST /v2/models/{model}/{kind}/start, or the option {kind!r}, starts one."
        )
        self.model, self.kind = model, kind


class UnauthenticatedError(RequestError):
    """The request has no valid key; the message does not distinguish a missing key from an invalid one."""

    def __init__(self) -> None:
        super().__init__("This needs a key; send a valid one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")


class ScopeError(RequestError):
    """The request's key lacks the required scope."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs a key with the scope {scope!r}.")
        self.scope = scope


class ForeignOriginError(RequestError):
    """A web page of another origin wants to change state."""

    def __init__(self, origin: str | None) -> None:
        page = "A web page of another site" if origin is None else f"A web page of {origin[:100]!r}"
        super().__init__(f"{page} may not change state here; NORMFOLD_CORS_ORIGINS lists the origins that may.")
        self.origin = origin


class ForeignHostError(RequestError):
    """A request would change state, and its Host header has a name that a web page may have chosen."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Host {host[:100]!r} is neither a loopback name nor an address, and no key is needed: a web page could "
            "have sent this. Allow the name (NORMFOLD_ALLOWED_HOSTS), or require keys (NORMFOLD_KEYS)."
        )
        self.host = host


class RateError(RequestError):
    """The request's key is over its rate limit."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            f"The key is over its rate limit. Try again in {retry_after_s} second{'s' * (retry_after_s > 1)}."
        )
        self.retry_after_s = retry_after_s


class UnknownPathError(RequestError):
    """No route has the path."""

    def __init__(self, path: str) -> None:
        advice = NO_SHARED_MEMORY if _SHARED_MEMORY_PATH.match(path) else "GET /docs lists the routes."
        super().__init__(f"There is no path {path!r}; {advice}")
        self.path = path


class ContentEncodingError(RequestError):
    """The Content-Encoding of the body is not supported."""

    accepted = "gzip, deflate"

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"The Content-Encoding {encoding!r} is not supported; compress the body once, with gzip or deflate, or not "
            "at all."
        )
        self.encoding = encoding


class BodyTooLargeError(RequestError):
    """The body is over the limit."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(f"The body is over the limit of {max_body_bytes:,} bytes.")
        self.max_body_bytes = max_body_bytes


class ResponseTooLargeError(RequestError):
    """The response alone is over the byte budget of all responses."""

    def __init__(self, size: int, max_response_bytes: int) -> None:
        super().__init__(
            f"The response would have {size:,} bytes, over the limit of {max_response_bytes:,}; "
            "send fewer rows in one request."
        )
        self.size, self.max_response_bytes = size, max_response_bytes


class FailingTensorsError(RequestError):
    """The network fails on the tensors of a request, and not on those that it was warmed up with.

    ONNX Runtime's message goes to the log, not to the client.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The network fails on these tensors: their sizes or values may not fit it. "
            "The service's log has the reason under this request's id."
        )
        self.detail = detail


class UnwritableOutputError(RequestError):
    """An output for the request's tensors has values that JSON cannot carry, and JSON was asked for."""

    def __init__(self, output: str) -> None:
        super().__init__(
            f"Output {output!r} holds NaN or Infinity for these inputs, which JSON cannot carry; infer returns it as "
            "binary data."
        )
        self.output = output


class SettingsError(InputError):
    """An option or environment variable is wrong."""

    names_arguments = True


class KeysError(SettingsError):
    """The key file is missing or broken, or cannot be changed as requested."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"The key file {str(path)!r} {problem}")
        self.path, self.problem = path, problem


class TlsError(SettingsError):
    """A file of a certificate or its key is missing, broken, or does not fit the others."""

    def __init__(self, setting: str, path: Path, problem: str) -> None:
        super().__init__(f"The file {str(path)!r} of `{setting}` {problem}.")
        self.setting, self.path, self.problem = setting, path, problem


class BundleLoadError(InputError):
    """A bundle cannot be trusted or loaded."""


class ProviderError(SetupError):
    """The requested provider is not available."""

    def __init__(self, provider: str, problem: str, remedy: str) -> None:
        super().__init__(f"The provider {provider!r} was requested, but {problem}; {remedy}")
        self.provider, self.problem = provider, problem


class KeysUnwritableError(SetupError):
    """The key file cannot be written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"The key file {str(path)!r} cannot be written: {problem}.")
        self.path, self.problem = path, problem


class StateDirError(SetupError):
    """The folder in which worker processes share their state cannot be written."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"The state folder {str(folder)!r} cannot be written: {problem}.")
        self.folder, self.problem = folder, problem


class AddressError(SetupError):
    """The host and port cannot be listened on."""

    def __init__(self, host: str, port: int, problem: str) -> None:
        super().__init__(f"Cannot listen on {host}:{port}: {problem}")
        self.host, self.port, self.problem = host, port, problem


class UnixSocketError(SetupError):
    """The Unix socket cannot be listened on."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"Cannot listen on {str(path)!r}: {problem}")
        self.path, self.problem = path, problem


class SocketActivationError(SetupError):
    """What systemd passes cannot be listened on."""


class ServingError(NormfoldError):
    """The request is right, and the service cannot serve it."""


class ModelUnavailableError(ServingError):
    """The model is loading, or could not be loaded."""

    def __init__(self, model: str, version: str | None, reason: str) -> None:
        named = f"Model {model!r}" if version is None else f"Version {version} of model {model!r}"
        super().__init__(f"{named} is not ready: {reason}")
        self.model, self.version, self.reason = model, version, reason


class ConnectionLimitError(ServingError):
    """Too many connections are open."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("Too many connections are open; try again in 1 second.")


class CallLimitError(ServingError):
    """Too many gRPC calls and messages are being answered."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("Too many calls are being answered; try again in 1 second.")


class QueueFullError(ServingError):
    """The model's queue is full."""

    def __init__(self, queue_capacity: int, retry_after_s: int) -> None:
        super().__init__(
            f"The model's queue is full: {queue_capacity} rows may wait. Try again in {retry_after_s} "
            f"second{'s' * (retry_after_s > 1)}."
        )
        self.queue_capacity, self.retry_after_s = queue_capacity, retry_after_s


class BodyBudgetError(ServingError):
    """Large bodies of other requests use the whole byte budget."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("Too many large requests are in flight; try again in 1 second.")


class ResponseBudgetError(ServingError):
    """Large responses that their clients have not read yet use the whole byte budget."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("Too many large responses wait to be read by their clients; try again in 1 second.")


class DeadlineError(ServingError):
    """The deadline of the request passed before the model had answered."""

    def __init__(self) -> None:
        super().__init__("The request's deadline passed before the model had answered.")


class ClientDisconnectedError(ServingError):
    """The client disconnected before its response was complete."""

    def __init__(self) -> None:
        super().__init__("The client disconnected before its response was complete.")


class UnloadedError(ServingError):
    """The model was unloaded while the request was queued."""

    def __init__(self) -> None:
        super().__init__("The model was unloaded before it could answer; try again.")


class StoppingError(ServingError):
    """The grace period of shutdown ended before the response."""

    def __init__(self) -> None:
        super().__init__("The service is stopping.")


class RunError(ServingError):
    """The network failed while it ran. ONNX Runtime's message goes to the log, not to the client."""

    def __init__(self, detail: str) -> None:
        super().__init__("The network failed while it ran; the service's log has the reason under this request's id.")
        self.detail = detail
