"""A session is opened on the provider that was asked for, or not at all.

ONNX Runtime falls back to the CPU in three ways, each with only a line on standard error or standard output: a provider
that does not work is left out of the session, one that raises is replaced (by its Python wrapper, while it opens and
even while it runs), and one that works may take no node. So the wrapper's fallback is off, and the providers got and
the placement of the nodes are compared with what was asked. What belongs to one provider is in `service/providers`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from normfold.contract.install import how_to_install
from normfold.contract.runtime import require_onnxruntime
from normfold.service.errors import BundleError, ProviderError
from normfold.service.runtime.providers.ort_messages import first_line, plain
from normfold.service.runtime.providers.placement import RECORD, Place, describe_placement, read_placement
from normfold.service.runtime.providers.session_request import Wish
from normfold.service.runtime.providers.table import AUTO, AUTO_ORDER, CPU, PROVIDERS, Provider
from normfold.service.runtime.session import Session

logger = logging.getLogger(__name__)

_ERROR = 3
"""ONNX Runtime's severity."""


def open_session(
    path: Path,
    provider: str,
    intra_op_threads: int,
    options: Mapping[str, str] | None = None,
    device_id: int = 0,
    cache: Path | None = None,
    arena: bool = True,
) -> Session:
    """Open a network on the provider asked for.

    The model is opened from its path, never from bytes: from bytes, other threads stall for tens of milliseconds.

    Args:
        path: the ONNX file.
        provider: one of the table's, or `auto`, which takes CUDA where it works, and otherwise the CPU.
        intra_op_threads: threads within one run.
        options: of that provider; they go before our own.
        device_id: which GPU, counted from 0.
        cache: folder that may be written, for what takes long to build; None: nothing is kept.
        arena: keep the memory of a run on the CPU for the next one.

    Raises:
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        ProviderError: the provider was asked for and not got, or refused its options.
        BundleError: ONNX Runtime cannot open the file.
    """
    require_onnxruntime()
    wish = Wish(path, intra_op_threads, options or {}, device_id, cache, arena)
    if provider != AUTO:
        return _open_on(wish, PROVIDERS[provider])
    fell_back = False
    for name in AUTO_ORDER[:-1]:
        if not _is_built_in(PROVIDERS[name]):
            continue
        try:
            return _open_on(wish, PROVIDERS[name])
        except ProviderError as error:
            fell_back = True
            bundle = "/".join(path.parts[-3:-1])
            logger.warning("%s does not run on %s, as provider 'auto' allows: %s.", bundle, name, error.got)
    return _open_on(wish, PROVIDERS[AUTO_ORDER[-1]], fell_back)


def _open_on(wish: Wish, provider: Provider, fell_back: bool = False) -> Session:
    """Open a network on one provider, and see that it was got."""
    if not _is_built_in(provider):
        raise ProviderError(
            provider.name,
            "this ONNX Runtime is built without it",
            f"uninstall it, and install another {how_to_install(provider.extra)}; or ask for cpu or auto.",
        )
    missing = provider.load_libraries()
    try:
        options = provider.options(wish) | dict(wish.options)
    except OSError as error:
        raise ProviderError(
            provider.name, f"its cache cannot be written ({error.strerror})", "choose another folder."
        ) from error
    create = partial(_create, wish, provider, options, missing)
    session = create()
    nodes = read_placement(session)
    if nodes and provider.name not in nodes:
        raise ProviderError(provider.name, f"it took none of the nodes ({describe_placement(nodes)})", provider.remedy)
    in_force = options | session.get_provider_options().get(provider.onnx_name, {})
    place = Place(provider.name, in_force, nodes, fell_back, provider.runs_on_host(wish))
    return Session(create, session, place, keeps_memory=wish.arena)


def _is_built_in(provider: Provider) -> bool:
    import onnxruntime

    return provider.onnx_name in onnxruntime.get_available_providers()


def _create(wish: Wish, provider: Provider, options: Mapping[str, str], missing: str) -> Any:
    """Return ONNX Runtime's session on this provider.

    Raises:
        ProviderError: the provider raised, or was not got.
        BundleError: the file is at fault: it does not open on the CPU either.
    """
    behind = [(PROVIDERS[name].onnx_name, PROVIDERS[name].options(_without_options(wish))) for name in provider.behind]
    try:
        session = _create_with(wish, [(provider.onnx_name, options), *behind])
    except Exception as error:
        if provider.name != CPU and _opens_on_cpu(wish):
            refused = f"ONNX Runtime refused it ({plain(error).rstrip('.')})"
            raise ProviderError(provider.name, refused, provider.remedy) from error
        raise BundleError(f"ONNX Runtime cannot open {wish.path.name!r}: {first_line(error)}") from error
    if session.get_providers()[0] != provider.onnx_name:
        got = f"ONNX Runtime fell back to the CPU{f' ({missing})' if missing else ''}"
        raise ProviderError(provider.name, got, provider.remedy)
    return session


def _create_with(wish: Wish, providers: list[tuple[str, Mapping[str, str]]]) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ERROR)  # else it warns of every session on a GPU
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wish.threads
    options.enable_cpu_mem_arena = wish.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a server's idle threads must not burn
    options.add_session_config_entry(RECORD, "1")
    options.log_severity_level = _ERROR  # and no less: they come back as exceptions, and the log is JSON
    return onnxruntime.InferenceSession(wish.path, options, providers=providers, enable_fallback=0)


def _opens_on_cpu(wish: Wish) -> bool:
    try:
        _create_with(wish, [(PROVIDERS[CPU].onnx_name, {})])
    except Exception:  # noqa: BLE001 -- the error that counts is the one before
        return False
    return True


def _without_options(wish: Wish) -> Wish:
    return replace(wish, options={})
