"""Settings of the service: environment variables NORMFOLD_…, overridden by arguments."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from normfold.contract.image_decoding import MAX_IMAGE_PIXELS
from normfold.service.errors import SettingsError
from normfold.service.proxy.prefix import check_prefix
from normfold.service.proxy.trusted_addresses import check_trusted
from normfold.service.rollout_options import SHADOW_SHARE, parse_rollouts

PREFIX = "NORMFOLD_"

OF_OTHER_COMMANDS = frozenset({"NORMFOLD_CLIENT_KEY"})
"""Variables that other commands read, and that may stand beside the service's: the key of `normfold bench`."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
"""The Origin header of a browser: scheme, host, and the port unless it is the scheme's default."""

_UNUSED_BY = {
    "provider_options": ("cpu", "auto"),
    "device_id": ("cpu", "openvino"),
    "tf32": ("cpu", "openvino"),
}
"""Settings, and the providers that do not use them."""

_GRAPH_OPTIONS = ("enable_cuda_graph", "trt_cuda_graph_enable")
_OFF = ("0", "false")

_PERMISSIONS = re.compile(r"0?[0-7]{3}")

_VERSION_POLICY = re.compile(r"^(?:all|latest:[1-9][0-9]{0,8}|[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*)$")


class Settings(BaseSettings):
    """All settings. Each field is read from the environment variable NORMFOLD_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    repository: Path = Field(
        default=Path("model_repository"), description="Folder of models: NAME/VERSION/ with a bundle in each."
    )
    model_control: Literal["none", "explicit", "poll"] = Field(
        default="none",
        description="When the repository is read: at the start, when a client asks for it, or every poll_interval_s.",
    )
    poll_interval_s: float = Field(default=5.0, gt=0, description="Seconds between two reads of the repository.")
    version_policy: str = Field(
        default="all", description="Versions to load: all, latest:N, or numbers joined by commas."
    )
    shadow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Versions to run beside those that serve, and to compare: NAME=VERSION:SHARE, joined by commas; "
        "without a share, 1.",
    )
    canary: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Versions that serve a share of the requests: NAME=VERSION:SHARE, joined by commas.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on, or several joined by commas; 127.0.0.1: this machine only, 0.0.0.0: all "
        "networks.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 chooses a free one.")
    uds: Path | None = Field(
        default=None,
        description="Unix socket to listen on; then TCP is used only if host or port is set too. It has no TLS.",
    )
    uds_permissions: str = Field(
        default="660", description="Permissions of the Unix socket, octal; 660: the service's user and group."
    )
    tls_cert: Path | None = Field(
        default=None,
        description="File of the certificate, PEM, with those up to its authority; HTTP and gRPC then use TLS.",
    )
    tls_key: Path | None = Field(
        default=None, description="File of the certificate's key, PEM, without a passphrase; if not set, in tls_cert."
    )
    tls_client_ca: Path | None = Field(
        default=None, description="File of authorities, PEM; clients need a certificate of one of them."
    )
    tls_client_auth: Literal["required", "optional"] = Field(
        default="required",
        description="Whether clients need a certificate, or may leave it out (gRPC then asks for none).",
    )
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for gRPC, beside HTTP on the same host; 0 chooses a free one; if not set, no gRPC.",
    )
    grpc_max_connection_age_s: float = Field(
        default=300.0,
        ge=0,
        description="Seconds after which a gRPC client is asked to connect again, so that new processes get requests; "
        "0: never.",
    )
    keys: Path | None = Field(
        default=None,
        description="File of API keys, as normfold keys writes it; if not set, requests need no key.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins of web pages that may call the service (CORS), joined by commas, or *; if not set, none.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host names, besides this machine's own, under which models are loaded and unloaded without keys, "
        "joined by commas, or *.",
    )
    root_path: str = Field(
        default="",
        description="Path prefix under which a proxy publishes the service, such as /ml; it may strip the prefix or "
        "pass it on.",
    )
    proxy_headers: bool = Field(
        default=False,
        description="Read X-Forwarded-Prefix, -For and -Proto of the proxies in forwarded_allow_ips: for links, the "
        "access log and traces.",
    )
    forwarded_allow_ips: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses and networks of proxies that are trusted with proxy_headers, joined by commas, or *.",
    )
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "auto"] = Field(
        default="auto",
        description="Execution provider; an error if it does not work; auto: CUDA if it works, otherwise the CPU.",
    )
    provider_options: Annotated[dict[str, str | bool | int | float], NoDecode] = Field(
        default_factory=dict,
        description="Options of that provider, as a JSON object; they override Normfold's defaults.",
    )
    int8_check: Literal["reject", "warn", "off"] = Field(
        default="reject",
        description="Int8 network with a proof from another processor or runtime that computes otherwise here: reject "
        "it, log a warning, or do not check.",
    )
    device_id: int = Field(default=0, ge=0, description="Index of the GPU, of cuda, tensorrt or auto.")
    gpu_tuning_s: float = Field(
        default=10.0,
        ge=0,
        description="Seconds to try options and CUDA graphs on cuda or tensorrt while a model loads; 0: keep the "
        "defaults.",
    )
    tf32: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="TF32 on CUDA (use_tf32; ONNX Runtime's default is on): auto: where it is faster and within the "
        "bundle's tolerance.",
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="Worker processes; limits apply to each, metrics are sums over all."
    )
    state_dir: Path | None = Field(
        default=None,
        description="Folder for the service's own files; if not set, a temporary one if several workers need it.",
    )
    shutdown_delay_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds at shutdown in which the service is not ready but still serves, so load balancers react.",
    )
    shutdown_grace_s: float = Field(
        default=20.0, ge=0, description="Seconds at shutdown for requests in flight; then they are answered 503."
    )
    intra_op_threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of one run; if not set, the processors by affinity and cgroup quota.",
    )
    max_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows of one batch; if not set, measured for each model while it loads, up to 64.",
    )
    max_batch_delay_ms: float = Field(
        default=0.0, ge=0, le=1000, description="Milliseconds that a batch waits to fill; useful on accelerators only."
    )
    queue_capacity: int = Field(
        default=1024, ge=1, description="Rows that may wait for a model, in each process; more are answered 503."
    )
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Default timeout of a request in seconds, for queue and run; after it the response is 504.",
    )
    max_timeout_s: float = Field(default=300.0, gt=0, description="Maximum timeout in seconds that a request may set.")
    max_body_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Bytes of a body, also after decompression; a larger one is answered 413."
    )
    max_bodies_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Bytes of all bodies over 32 KiB, sent or decompressed, until the response, in each process; "
        "more are answered 503.",
    )
    max_response_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Bytes of all unread responses over 32 KiB, in each process; one more is answered 503.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024, ge=1024, description="Bytes of a request's headers; longer ones are answered 431."
    )
    max_connections: int = Field(
        default=1024, ge=1, description="Open connections, in each process; one more is answered 503."
    )
    receive_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds to receive a whole request; then it is answered 408."
    )
    max_image_pixels: int = Field(
        default=MAX_IMAGE_PIXELS,
        ge=1,
        description="Pixels of an image; larger images are rejected before decoding.",
    )
    drift_share: float = Field(
        default=0.005,
        ge=0,
        le=1,
        description="Share of one processor's time for drift monitoring of a model, in each process; 0: off.",
    )
    keep_samples: int = Field(
        default=0,
        ge=0,
        description="Recent input rows to keep in state_dir for normfold adapt, per version and process.",
    )
    triton_metrics: bool = Field(default=False, description="Also publish the metrics under Triton's names.")
    tracing: bool = Field(
        default=False,
        description="Export spans of requests by OpenTelemetry, which its own variables OTEL_… configure.",
    )
    access_log: Path | None = Field(
        default=None,
        description="File for the access log, one JSON line per request; if not set, the service's log.",
    )
    payload_log: Path | None = Field(
        default=None,
        description="File for a sample of requests and answers with their tensors, as JSON lines; if not set, none.",
    )
    payload_log_share: float = Field(
        default=0.01, ge=0, le=1, description="Share of the answers that the payload log gets."
    )
    payload_log_redact: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Inputs, outputs and parameters whose values the payload log leaves out, joined by commas.",
    )
    payload_log_max_bytes: int = Field(
        default=100 * 2**20, ge=1024, description="Bytes of a file of the payload log; then the next one begins."
    )
    payload_log_files: int = Field(
        default=10, ge=1, le=1000, description="Files of the payload log; the oldest one is deleted."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged; info includes a line for every request."
    )
    log_format: Literal["json", "text", "auto"] = Field(
        default="auto", description="One JSON object a line, or plain text; auto: text on a terminal, otherwise JSON."
    )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses to listen on."""
        return tuple(host.strip() for host in self.host.split(","))

    @field_validator("host")
    @classmethod
    def _reject_empty_host(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("it is empty; leave it out, or give an address such as 127.0.0.1")
        if not all(host.strip() for host in text.split(",")):
            raise ValueError(f"{text!r} has an empty address; join addresses by single commas")
        return text

    @field_validator("uds_permissions")
    @classmethod
    def _check_permissions(cls, text: str) -> str:
        if not _PERMISSIONS.fullmatch(text):
            raise ValueError(f"{text!r} is not octal, such as 660 or 666")
        return text

    @field_validator("tls_key", "tls_client_ca")
    @classmethod
    def _require_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("tls_cert") is None:
            raise ValueError("it needs a certificate, `tls_cert`, which is not set")
        return path

    @field_validator("shadow", "canary", "payload_log_redact", mode="before")
    @classmethod
    def _split_commas(cls, given: object) -> object:
        """Split text joined by commas, as in an environment variable."""
        if not isinstance(given, str):
            return given
        return tuple(part.strip() for part in given.split(",") if part.strip())

    @field_validator("shadow")
    @classmethod
    def _check_shadow(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        parse_rollouts(options, SHADOW_SHARE)
        return options

    @field_validator("canary")
    @classmethod
    def _check_canary(cls, options: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        shadows = parse_rollouts(info.data.get("shadow", ()), SHADOW_SHARE)
        for model, canary in parse_rollouts(options, None).items():
            if model in shadows and shadows[model].version == canary.version:
                raise ValueError(f"version {canary.version} of {model!r} cannot be its shadow and its canary")
        return options

    @field_validator("keep_samples")
    @classmethod
    def _require_state_dir(cls, rows: int, info: ValidationInfo) -> int:
        if rows and info.data.get("state_dir") is None:
            raise ValueError("recent inputs are kept in state_dir, which is not set")
        return rows

    @field_validator("version_policy")
    @classmethod
    def _check_policy(cls, text: str) -> str:
        return check_version_policy(text)

    @field_validator("provider_options", mode="before")
    @classmethod
    def _read_options(cls, value: Any) -> Any:
        """Parse the JSON of an environment variable."""
        with suppress(ValueError):
            value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, dict) or not all(isinstance(one, str | bool | int | float) for one in value.values()):
            raise ValueError('it must be a JSON object of plain values, such as {"gpu_mem_limit": 2000000000}')
        return value

    @field_validator("provider_options")
    @classmethod
    def _reject_graphs(cls, options: dict[str, str | bool | int | float]) -> dict[str, str | bool | int | float]:
        """Reject CUDA graphs for all runs: a replay reads the addresses of the capture, not the request's rows."""
        for name in _GRAPH_OPTIONS:
            if str(options.get(name, 0)).lower() not in _OFF:
                raise ValueError(
                    f"{name} cannot be turned on for all runs; leave it out, and CUDA graphs are used where they are "
                    "faster, or set it to 0"
                )
        return options

    @field_validator("provider_options", "device_id", "tf32")
    @classmethod
    def _reject_unused(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject a setting that the provider does not use; `auto` may choose another one than the options are for."""
        provider = info.data.get("provider")
        if value and value not in ("auto", "off") and provider in _UNUSED_BY.get(info.field_name or "", ()):
            providers = (
                "cuda, tensorrt or openvino" if info.field_name == "provider_options" else "cuda, tensorrt or auto"
            )
            raise ValueError(f"the provider {provider!r} does not use it; name another provider: {providers}")
        return value

    @field_validator("root_path")
    @classmethod
    def _check_prefix(cls, text: str) -> str:
        return check_prefix(text)

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_trusted(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(check_trusted, addresses))

    @field_validator("allowed_hosts", "cors_origins", "forwarded_allow_ips", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        """Split text joined by commas, as in an environment variable."""
        if not isinstance(given, str):
            return given
        return tuple(part.strip().lower() for part in given.split(",") if part.strip())

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is neither * nor an origin like https://app.example:8443, without a path")
        return origins


def check_version_policy(text: str) -> str:
    """Return a version policy: `all`, `latest:N`, or numbers joined by commas.

    Raises:
        ValueError: the text is not a version policy.
    """
    if not _VERSION_POLICY.fullmatch(text):
        raise ValueError(f"{text!r} is not all, latest:N or numbers joined by commas")
    return text


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; arguments that are not None override it.

    Raises:
        SettingsError: a value is invalid, or a NORMFOLD_ variable has an unknown name.
    """
    _reject_unknown_variables()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(" ".join(_describe(problem, overrides) for problem in error.errors())) from None


def _describe(problem: ErrorDetails, overrides: Mapping[str, Any]) -> str:
    """Describe the problem of a setting, by its argument where that was given, otherwise by its variable."""
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, 1)
        return f"There is no setting `{name}`{f'; did you mean `{near[0]}`?' if near else '.'}"
    given = f"`{name}`" if overrides.get(name) is not None else PREFIX + name.upper()
    return f"{given} is wrong: {problem['msg'].removeprefix('Value error, ').rstrip('.')}."


def _reject_unknown_variables() -> None:
    """Reject NORMFOLD_ variables that no field reads, by name: pydantic-settings' extra="forbid" ignores them."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    names = (name for name in os.environ if name.upper() not in OF_OTHER_COMMANDS)
    unknown = sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(" ".join(_describe_unknown(name, known) for name in unknown))


def _describe_unknown(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], 1)
    hint = f"did you mean {PREFIX + near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
    return f"The environment variable {name!r} is not known; {hint}"
