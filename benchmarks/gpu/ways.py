"""Ways to run one network on a device: ONNX Runtime with several options, and torch. Each gives two runs.

Sessions have the options of the service and those of the way; on the CPU without the latter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from normfold.export.files.fold_file import fold_file
from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.service.runtime.providers.session_request import SessionRequest
from normfold.service.runtime.providers.table import PROVIDERS

Run = Callable[[], Any]
Runs = tuple[Run, Callable[[], np.ndarray]]
"""A run on the device, and one from and to host memory, which returns the first output."""


@dataclass(frozen=True)
class Variant:
    """One way to run a network in ONNX Runtime.

    Attributes:
        name: in the table.
        is_float16: which of the two files it runs.
        provider: short name of the provider.
        options: of the provider, over Normfold's defaults.
        keeps_addresses: it replays a CUDA graph, so that inputs and outputs stay where they are on the device.
    """

    name: str
    is_float16: bool
    provider: str = "cuda"
    options: Mapping[str, str] = field(default_factory=dict)
    keeps_addresses: bool = False


@dataclass(frozen=True)
class TorchVariant:
    """One way to run a network in torch, in float16 with channels last; `is_compiled`: by torch.compile."""

    name: str
    is_compiled: bool


Way = Variant | TorchVariant


def make_network(name: str, shape: Sequence[int], folder: Path) -> tuple[Any, dict[bool, Path]]:
    """Return a torch network in eval mode, and its folded files: float32 under False, float16 under True.

    Inputs and outputs of the float16 file are float16, as torch's are.
    """
    import torch

    from normfold.models.architectures.registry import Architecture, build
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    torch.manual_seed(0)
    network = build(Architecture(name=name, input_shape=tuple(shape), classes=1000)).eval()
    files = {False: folder / f"{name}.onnx", True: folder / f"{name}.float16.onnx"}
    to_onnx(network, folder / f"{name}.source.onnx", {"input": InputSpec(tuple(shape))})
    fold_file(folder / f"{name}.source.onnx", files[False], verified=False)
    convert_to_float16(files[False], files[True], keep_io=False)
    return network, files


def open_way(way: Way, network: Any, files: Mapping[bool, Path], images: np.ndarray, device: str) -> Runs:
    """Return both runs of one way, after warm-up runs."""
    if isinstance(way, TorchVariant):
        runs = _runs_of_torch(network, images, device, way.is_compiled)
    else:
        session = open_variant(way, files[way.is_float16], device)
        runs = _runs_of_session(session, images, way.keeps_addresses, device)
    for _ in range(5):
        for run in runs:
            run()
    return runs


def open_variant(variant: Variant, path: Path, device: str) -> Any:
    """Open a file as the service would, with the variant's options; on the CPU without them.

    Raises:
        RuntimeError: ONNX Runtime is built without the provider, or left it out.
    """
    import onnxruntime

    provider = PROVIDERS[variant.provider if device == "cuda" else "cpu"]
    if provider.onnx_name not in onnxruntime.get_available_providers():
        raise RuntimeError(f"this ONNX Runtime is built without {provider.onnx_name}")
    missing = provider.load_libraries()
    options = provider.options(SessionRequest(path)) | (dict(variant.options) if device == "cuda" else {})
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 4  # errors are raised as exceptions
    session = onnxruntime.InferenceSession(
        path, session_options, providers=[(provider.onnx_name, options)], enable_fallback=0
    )
    if session.get_providers()[0] != provider.onnx_name:
        raise RuntimeError(f"ONNX Runtime left {provider.onnx_name} out{f': {missing}' if missing else ''}")
    return session


def _runs_of_session(session: Any, images: np.ndarray, keeps_addresses: bool, device: str) -> Runs:
    import onnxruntime

    (source,), outputs = session.get_inputs(), session.get_outputs()
    given = images.astype(np.float16) if source.type == "tensor(float16)" else images
    value = onnxruntime.OrtValue.ortvalue_from_numpy(given, device, 0)
    results = [
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([len(given), *output.shape[1:]], given.dtype, device, 0)
        for output in outputs
    ]
    binding = session.io_binding()
    binding.bind_ortvalue_input(source.name, value)
    for output, result in zip(outputs, results, strict=True):
        binding.bind_ortvalue_output(output.name, result)

    def on_device() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def from_host() -> np.ndarray:
        if not keeps_addresses:
            first: np.ndarray = session.run(None, {source.name: given})[0]
            return first
        value.update_inplace(given)
        on_device()
        copied: list[np.ndarray] = [result.numpy() for result in results]
        return copied[0]

    return on_device, from_host


def _runs_of_torch(network: Any, images: np.ndarray, device: str, is_compiled: bool) -> Runs:
    import torch

    copied = copy.deepcopy(network).half().to(device).to(memory_format=torch.channels_last)
    called = torch.compile(copied, mode="reduce-overhead") if is_compiled else copied
    host = torch.from_numpy(images.astype(np.float16))
    there = host.to(device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def on_device() -> None:
        called(there)
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def from_host() -> np.ndarray:
        array: np.ndarray = called(host.to(device).to(memory_format=torch.channels_last)).cpu().numpy()
        return array

    return on_device, from_host
