"""Float32 and float16 on an NVIDIA GPU, beside torch: `make bench-gpu BENCH_OPTIONS=--precision`.

ResNet-50 and MobileNetV2 with seeded weights, 1 and 32 rows: the folded network in float32 and in float16, with the
options of ONNX Runtime that may bring it nearer to the card, and as peers torch in eager mode in float16 with channels
last, and torch.compile of that. Milliseconds a run, inputs and outputs on the device, and from and to host memory.

A variant that cannot be opened says why, and the others go on.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.progress import show_progress
from normfold.contract.errors import first_line
from normfold.export.files.fold_file import fold_file
from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.service.runtime.providers.session_request import SessionRequest
from normfold.service.runtime.providers.table import PROVIDERS

NETWORKS = {"ResNet-50": "resnet50", "MobileNetV2": "mobilenet_v2"}
ROWS = (1, 32)
SHAPE = (3, 224, 224)
_WINDOW_S = 0.3

Run = Callable[[], Any]


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


VARIANTS = (
    Variant("float32", is_float16=False),
    Variant("float32, TF32", is_float16=False, options={"use_tf32": "1"}),
    Variant("float16", is_float16=True),
    Variant("float16, NHWC", is_float16=True, options={"prefer_nhwc": "1"}),
    Variant("float16, CUDA graph", is_float16=True, options={"enable_cuda_graph": "1"}, keeps_addresses=True),
    Variant(
        "float16, NHWC, CUDA graph",
        is_float16=True,
        options={"prefer_nhwc": "1", "enable_cuda_graph": "1"},
        keeps_addresses=True,
    ),
    Variant("float16, TensorRT", is_float16=True, provider="tensorrt", options={"trt_fp16_enable": "True"}),
)


def print_precisions(folder: Path, rounds: int) -> None:
    """Measure and print both networks."""
    for title, name in NETWORKS.items():
        show_progress(f"making {title}")
        network, files = make_network(name, SHAPE, folder)
        for rows in ROWS:
            images = np.random.default_rng(0).standard_normal((rows, *SHAPE)).astype(np.float32)
            runs = dict(find_runs(network, files, images, VARIANTS, "cuda"))
            print(f"\n{title}, {rows} row{'s' * (rows > 1)} {'on device':>26} {'from host':>10}   (ms a run)")
            for variant, (on_device, from_host) in times_of(runs, rounds).items():
                print(f"{variant:32} {1e3 * on_device:10.3f} {1e3 * from_host:10.3f}")


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


def find_runs(
    network: Any, files: Mapping[bool, Path], images: np.ndarray, variants: Sequence[Variant], device: str
) -> Iterator[tuple[str, tuple[Run, Run]]]:
    """Yield the name of each variant that can be opened, and a run on the device and one from host memory."""
    for variant in variants:
        try:
            session = open_variant(variant, files[variant.is_float16])
            yield variant.name, _runs_of_session(session, images, variant, device)
        except Exception as error:  # noqa: BLE001 -- ONNX Runtime raises many kinds; the others go on
            print(f"{variant.name}: cannot be run ({first_line(error)})")
    for name, is_compiled in (("torch float16, channels last", False), ("torch.compile of that", True)):
        try:
            yield name, _runs_of_torch(network, images, device, is_compiled)
        except Exception as error:  # noqa: BLE001 -- as above
            print(f"{name}: cannot be run ({first_line(error)})")


def open_variant(variant: Variant, path: Path) -> Any:
    """Open a file as the service would, with the variant's options.

    Raises:
        RuntimeError: ONNX Runtime left the provider out.
    """
    import onnxruntime

    provider = PROVIDERS[variant.provider]
    provider.load_libraries()
    options = provider.options(SessionRequest(path)) | dict(variant.options)
    session = onnxruntime.InferenceSession(path, providers=[(provider.onnx_name, options)], enable_fallback=0)
    if session.get_providers()[0] != provider.onnx_name:
        raise RuntimeError(f"ONNX Runtime left {provider.onnx_name} out")
    return session


def times_of(runs: Mapping[str, tuple[Run, Run]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of both runs of each variant, over interleaved rounds."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (on_device, from_host) in runs.items():
            seconds[name].append((seconds_of(on_device), seconds_of(from_host)))
    return {
        name: (statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs))
        for name, pairs in seconds.items()
    }


def seconds_of(run: Run, window_s: float = _WINDOW_S) -> float:
    """Return the mean seconds per run."""
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < window_s:
        run()
        runs += 1
    return (time.perf_counter() - started) / runs


def _runs_of_session(session: Any, images: np.ndarray, variant: Variant, device: str) -> tuple[Run, Run]:
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

    def from_host() -> list[np.ndarray]:
        if not variant.keeps_addresses:
            return list(session.run(None, {source.name: given}))
        value.update_inplace(given)
        on_device()
        return [result.numpy() for result in results]

    for _ in range(5):
        on_device()
        from_host()
    return on_device, from_host


def _runs_of_torch(network: Any, images: np.ndarray, device: str, is_compiled: bool) -> tuple[Run, Run]:
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

    for _ in range(5):
        on_device()
        from_host()
    return on_device, from_host
