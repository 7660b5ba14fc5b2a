"""Check that this machine computes what an int8 network's file says, where its proof comes from another one.

Integer kernels differ between processors, and some add products in 16 bits, which saturate. So the network is run with
all optimisations, as it will be served, and with none, on the inputs that its proof was made with too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normfold.contract.errors import first_line
from normfold.contract.manifest import Manifest
from normfold.contract.precision.check_inputs import make_check_inputs
from normfold.contract.precision.processor import processor_name
from normfold.contract.precision.record import PrecisionKind
from normfold.contract.precision.signal_to_noise import MIN_FUSED_DB, signal_to_noise_db
from normfold.service.errors import BundleLoadError, InvalidRequestError, RunError
from normfold.service.runtime.providers.table import CPU
from normfold.service.runtime.session import Array, Session
from normfold.service.settings import Settings

logger = logging.getLogger(__name__)


def check_int8(path: Path, manifest: Manifest, session: Session, settings: Settings) -> float | None:
    """Return the signal to noise ratio in dB of an int8 network's outputs with and without optimisations.

    Args:
        path: of the network.
        manifest: with its proof.
        session: the network, as it is served.
        settings: `int8_check` says what becomes of a network that fails.

    Returns:
        None where nothing was checked: the network is not int8, its proof was made on this processor by this ONNX
        Runtime, the check is off, or the network cannot be run on inputs that are made up.

    Raises:
        BundleLoadError: it fails, and the setting is `reject`.
    """
    if settings.int8_check == "off" or not _needs_check(manifest, session):
        return None
    name = f"{manifest.name}/{manifest.version}"
    preprocessing = manifest.card.preprocessing
    inputs = make_check_inputs(manifest.inputs, None if preprocessing is None else preprocessing.sample_shape)
    try:
        decibels = None if inputs is None else _compare(path, session, inputs)
    except (RunError, InvalidRequestError) as error:
        logger.warning("%s was not checked on this processor: %s", name, error)
        return None
    if decibels is None:
        logger.warning("%s was not checked on this processor: an input is text, or no output holds numbers.", name)
    elif decibels < MIN_FUSED_DB:
        problem = (
            f"On this processor, {processor_name()}, ONNX Runtime does not compute what the int8 network says: its "
            f"outputs with and without optimisations are {decibels:.1f} dB apart, and at least {MIN_FUSED_DB:g} are "
            "needed; serve a float32 version, or set NORMFOLD_INT8_CHECK=warn."
        )
        if settings.int8_check == "reject":
            raise BundleLoadError(problem)
        logger.warning("%s: %s", name, problem)
    return decibels


def _needs_check(manifest: Manifest, session: Session) -> bool:
    """Return whether an int8 network is served on another processor or runtime than its proof was made with."""
    import onnxruntime

    precision = manifest.precision
    if precision is None or precision.kind is not PrecisionKind.INT8:
        return False
    proven = {version for package, version in manifest.versions.items() if package.startswith("onnxruntime")}
    is_same = precision.proof.processor == processor_name() and onnxruntime.__version__ in proven
    return not is_same or session.provider != CPU


def _compare(path: Path, session: Session, inputs: Mapping[str, Array]) -> float | None:
    """Return the lowest ratio of the outputs, in dB; None if none holds numbers with fractions.

    Raises:
        RunError, InvalidRequestError: a run fails.
    """
    outputs = list(session.outputs)
    wanted = _run_unoptimised(path, inputs, outputs)
    got = session.run(inputs, outputs)
    ratios = [signal_to_noise_db(one, other) for one, other in zip(wanted, got, strict=True) if one.dtype.kind == "f"]
    return min(ratios, default=None)


def _run_unoptimised(path: Path, inputs: Mapping[str, Array], outputs: list[str]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # errors are raised as exceptions
    try:
        session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        results: list[Array] = session.run(outputs, dict(inputs))
    except Exception as error:
        raise RunError(first_line(error)) from error
    return results
