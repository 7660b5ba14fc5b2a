"""Settings of the service: environment variables NORMFOLD_…, or arguments, which override them."""

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
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from normfold.contract.image_decoding import MAX_IMAGE_PIXELS
from normfold.service.errors import SettingsError
from normfold.service.repository.version_policy import VersionPolicy

PREFIX = "NORMFOLD_"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
"""What a browser sends as Origin: scheme, host, and the port where it is not the scheme's own."""

_WITHOUT = {"provider_options": ("cpu", "auto"), "device_id": ("cpu", "openvino")}
"""Settings, and the providers that would not look at them."""


class Settings(BaseSettings):
    """What the service can be told. Every field is read from NORMFOLD_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    repository: Path = Field(
        default=Path("model_repository"), description="Folder of models: NAME/VERSION/ with a bundle in each."
    )
    model_control: Literal["none", "explicit", "poll"] = Field(
        default="none",
        description="When the folders count: at the start alone, when a request asks for it, or every poll_interval_s.",
    )
    poll_interval_s: float = Field(default=5.0, gt=0, description="Seconds between two looks at the folders.")
    version_policy: str = Field(
        default="all", description="Versions to load: all, latest:N, or numbers joined by commas."
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; only this machine reaches the default, 0.0.0.0 is all."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    keys: Path | None = Field(
        default=None,
        description="File of keys, as normfold keys writes it; left out, nobody needs one.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins of web pages that may ask, joined by commas, or *; left out, browsers let none.",
    )
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "auto"] = Field(
        default="auto",
        description="What runs the networks; one that does not work is an error; auto takes CUDA or else the CPU.",
    )
    provider_options: Annotated[dict[str, str | bool | int | float], NoDecode] = Field(
        default_factory=dict,
        description="Options of the provider that is named, as a JSON object; they go before our own.",
    )
    device_id: int = Field(default=0, ge=0, description="Which GPU, of cuda, tensorrt or auto; counted from 0.")
    workers: int = Field(
        default=1, ge=1, le=256, description="Processes that serve; limits count in each of them, figures in all."
    )
    state_dir: Path | None = Field(
        default=None,
        description="Folder for what the service writes of its own; left out, a temporary one where workers need it.",
    )
    shutdown_delay_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds at the end in which it is not ready and still serves, until balancers have noticed.",
    )
    shutdown_grace_s: float = Field(
        default=20.0, ge=0, description="Seconds at the end for requests in flight; then they are answered 503."
    )
    intra_op_threads: int | None = Field(
        default=None, ge=1, description="Threads in one run; left out, the processors that affinity and cgroup allow."
    )
    max_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows that a network runs at once; left out, measured for each model while it loads, up to 64.",
    )
    max_batch_delay_ms: float = Field(
        default=0.0, ge=0, le=1000, description="How long a batch waits to fill; of use on accelerators alone."
    )
    queue_capacity: int = Field(
        default=1024, ge=1, description="Rows that may wait for a model, in each process; more are refused with 503."
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds for queue and run of a request that names no timeout; then 504."
    )
    max_timeout_s: float = Field(default=300.0, gt=0, description="The longest timeout that a request may name.")
    max_body_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Requests with a larger body are refused with status 413."
    )
    max_bodies_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Bytes of large bodies, from head to answer, in each process; one more is answered 503.",
    )
    max_response_bytes: int = Field(
        default=2**30,
        ge=1,
        description="Bytes of large answers that may wait to be read, in each process; one more is answered 503.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024, ge=1024, description="Requests with longer headers are refused with status 431."
    )
    max_connections: int = Field(
        default=1024, ge=1, description="Connections open at once, in each process; one more is answered 503."
    )
    receive_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds within which a request must have come whole; then 408."
    )
    max_image_pixels: int = Field(
        default=MAX_IMAGE_PIXELS, ge=1, description="Pictures with more pixels are refused before they are decoded."
    )
    drift_share: float = Field(
        default=0.005,
        ge=0,
        le=1,
        description="Of one processor's time, what watching a model's inputs may take, in each process; 0: none.",
    )
    keep_samples: int = Field(
        default=0,
        ge=0,
        description="Rows of recent inputs kept in state_dir for normfold adapt, of each version in each process.",
    )
    triton_metrics: bool = Field(default=False, description="Metrics under the names of Triton's too.")
    tracing: bool = Field(
        default=False,
        description="Spans of requests go to OpenTelemetry, which its own variables OTEL_… configure.",
    )
    access_log: Path | None = Field(
        default=None,
        description="File for a line of JSON for every request; left out, the lines go to the service's log.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe message that is logged; info has a line for every request."
    )
    log_format: Literal["json", "text", "auto"] = Field(
        default="auto", description="One JSON object a line, or text for people; auto is text on a terminal."
    )

    @field_validator("keep_samples")
    @classmethod
    def _require_folder(cls, rows: int, info: ValidationInfo) -> int:
        if rows and info.data.get("state_dir") is None:
            raise ValueError("recent inputs are kept in state_dir, which is not set")
        return rows

    @field_validator("version_policy")
    @classmethod
    def _check_policy(cls, text: str) -> str:
        return str(VersionPolicy.parse(text))

    @field_validator("provider_options", mode="before")
    @classmethod
    def _read_options(cls, value: Any) -> Any:
        """Read what stands in an environment variable."""
        with suppress(ValueError):
            value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, dict) or not all(isinstance(one, str | bool | int | float) for one in value.values()):
            raise ValueError('it must be a JSON object of plain values, such as {"gpu_mem_limit": 2000000000}')
        return value

    @field_validator("provider_options", "device_id")
    @classmethod
    def _refuse_what_nobody_reads(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what the provider would not look at: `auto` may end on another than the options were meant for."""
        provider = info.data.get("provider")
        if value and provider in _WITHOUT.get(info.field_name or "", ()):
            takers = "cuda, tensorrt or openvino" if info.field_name == "provider_options" else "cuda, tensorrt or auto"
            raise ValueError(f"the provider {provider!r} takes none; name the provider: {takers}")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, given: object) -> object:
        """Take text joined by commas: what a person writes into an environment variable."""
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


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; arguments that are not None override it.

    Raises:
        SettingsError: a value does not fit its field, or a NORMFOLD_ variable has an unknown name.
    """
    _refuse_unknown_variables()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        problems = [_describe(problem["loc"], problem["msg"], overrides) for problem in error.errors()]
        raise SettingsError(" ".join(problems)) from None


def _describe(location: tuple[int | str, ...], problem: str, options: Mapping[str, Any]) -> str:
    """Say what is wrong with a setting, by the name of its variable, and of its option if it has one."""
    name = str(location[0]) if location else "settings"
    option = f" (--{name.replace('_', '-')})" if name in options else ""
    return f"{PREFIX}{name.upper()}{option} is wrong: {problem.removeprefix('Value error, ').rstrip('.')}."


def _refuse_unknown_variables() -> None:
    """Name every NORMFOLD_ variable that no field reads: pydantic-settings' extra="forbid" does not see them."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(" ".join(_describe_unknown(name, known) for name in unknown))


def _describe_unknown(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], 1)
    hint = f"did you mean {PREFIX + near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
    return f"The environment variable {name!r} is not known; {hint}"
