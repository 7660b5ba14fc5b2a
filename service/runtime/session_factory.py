"""Open a session on the provider that was requested, or raise.

ONNX Runtime falls back to the CPU in three ways, each with only a line on standard error or standard output: a provider
that does not work is left out of the session, one that raises is replaced (by the Python wrapper, while it opens and
even while it runs), and one that works may be assigned no node. So the wrapper's fallback is off, and the session's
providers and the placement of its nodes are compared with the request. What concerns one provider only is in
`service.runtime.providers`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from normfold.contract.errors import first_line
from normfold.contract.install import how_to_install
from normfold.contract.onnxruntime_package import require_onnxruntime
from normfold.service.errors import BundleLoadError, ProviderError
from normfold.service.runtime.capture_lock import CAPTURE_LOCK
from normfold.service.runtime.providers.ort_messages import message_of
from normfold.service.runtime.providers.placement import (
    RECORD,
    Placement,
    describe_nodes,
    read_nodes,
)
from normfold.service.runtime.providers.session_request import Options, SessionRequest
from normfold.service.runtime.providers.table import AUTO, AUTO_ORDER, CPU, PROVIDERS, Provider
from normfold.service.runtime.session import Session

logger = logging.getLogger(__name__)

_ERROR = 3
"""ONNX Runtime's log severity of errors."""


def open_session(
    path: Path,
    provider: str,
    intra_op_threads: int,
    options: Mapping[str, str] | None = None,
    device_id: int = 0,
    cache: Path | None = None,
    arena: bool = True,
    tf32: bool = False,
) -> Session:
    """Open a network on the requested provider.

    The model is opened from its path, never from bytes: bytes hold the GIL for tens of milliseconds.

    Args:
        path: the ONNX file.
        provider: short name of a provider, or `auto`: CUDA where it works, otherwise the CPU.
        intra_op_threads: threads within one run.
        options: of that provider; they override Normfold's defaults.
        device_id: index of the GPU.
        cache: writable folder for compiled engines; None: no cache.
        arena: let the CPU provider keep the memory of a run for the next one.
        tf32: let CUDA multiply float32 in TF32.

    Raises:
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        ProviderError: the provider does not work here, or rejected its options.
        BundleLoadError: ONNX Runtime cannot open the file.
    """
    require_onnxruntime()
    request = SessionRequest(path, intra_op_threads, options or {}, device_id, cache, arena, tf32)
    if provider != AUTO:
        return _open_on(request, PROVIDERS[provider])
    fell_back = False
    for name in AUTO_ORDER[:-1]:
        if not _is_built_in(PROVIDERS[name]):
            continue
        try:
            return _open_on(request, PROVIDERS[name])
        except ProviderError as error:
            fell_back = True
            bundle = "/".join(path.parts[-3:-1])
            logger.warning("%s does not run on %s, as provider 'auto' allows: %s.", bundle, name, error.problem)
    return _open_on(request, PROVIDERS[AUTO_ORDER[-1]], fell_back)


def _open_on(request: SessionRequest, provider: Provider, fell_back: bool = False) -> Session:
    """Open a network on one provider, and check that it runs there."""
    if not _is_built_in(provider):
        raise ProviderError(
            provider.name,
            "this ONNX Runtime is built without it",
            f"uninstall it, and install another {how_to_install(provider.extra)}; or ask for cpu or auto.",
        )
    missing = provider.load_libraries()
    try:
        options = provider.options(request) | dict(request.options)
    except OSError as error:
        raise ProviderError(
            provider.name, f"its cache cannot be written ({error.strerror})", "choose another folder."
        ) from error
    session = _create(request, provider, options, missing)
    nodes = read_nodes(session)
    if nodes and provider.name not in nodes:
        raise ProviderError(provider.name, f"it runs none of the nodes ({describe_nodes(nodes)})", provider.remedy)
    in_force = options | session.get_provider_options().get(provider.onnx_name, {})
    placement = Placement(provider.name, in_force, nodes, fell_back, provider.runs_on_host(request))

    def reopen(more: Options) -> Session:
        return _open_on(replace(request, options={**more, **request.options}), provider, fell_back)

    return Session(reopen, session, placement, has_arena=request.arena)


def _is_built_in(provider: Provider) -> bool:
    import onnxruntime

    return provider.onnx_name in onnxruntime.get_available_providers()


def _create(request: SessionRequest, provider: Provider, options: Mapping[str, str], missing: str) -> Any:
    """Return ONNX Runtime's session on this provider.

    Raises:
        ProviderError: the provider raised, or the session is without it.
        BundleLoadError: the file cannot be opened on the CPU either.
    """
    fallbacks = [
        (PROVIDERS[name].onnx_name, PROVIDERS[name].options(_drop_options(request))) for name in provider.fallbacks
    ]
    no_capture = nullcontext() if provider.runs_on_host(request) else CAPTURE_LOCK.running()
    try:
        with no_capture:
            session = _create_with(request, [(provider.onnx_name, options), *fallbacks])
    except Exception as error:
        if provider.name != CPU and _opens_on_cpu(request):
            problem = f"ONNX Runtime rejected it ({message_of(error).rstrip('.')})"
            raise ProviderError(provider.name, problem, provider.remedy) from error
        raise BundleLoadError(f"ONNX Runtime cannot open {request.path.name!r}: {first_line(error)}") from error
    if session.get_providers()[0] != provider.onnx_name:
        problem = f"ONNX Runtime fell back to the CPU{f' ({missing})' if missing else ''}"
        raise ProviderError(provider.name, problem, provider.remedy)
    return session


def _create_with(request: SessionRequest, providers: list[tuple[str, Mapping[str, str]]]) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ERROR)  # else it warns for every session on a GPU
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.enable_cpu_mem_arena = request.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not use processor time
    options.add_session_config_entry(RECORD, "1")
    options.log_severity_level = _ERROR  # errors are raised as exceptions, and the log is JSON
    return onnxruntime.InferenceSession(request.path, options, providers=providers, enable_fallback=0)


def _opens_on_cpu(request: SessionRequest) -> bool:
    try:
        _create_with(request, [(PROVIDERS[CPU].onnx_name, {})])
    except Exception:  # noqa: BLE001 -- the provider's own error is reported
        return False
    return True


def _drop_options(request: SessionRequest) -> SessionRequest:
    return replace(request, options={})
