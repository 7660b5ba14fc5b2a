"""The table of execution providers: names, options, libraries, and the remedy where one does not work.

`auto` tries CUDA and then the CPU. It does not try TensorRT, which builds an engine for each model and so delays the
start by minutes, nor OpenVINO, which must be named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from normfold.contract.install import how_to_install
from normfold.service.runtime.providers import cuda, openvino, tensorrt
from normfold.service.runtime.providers.session_request import SessionRequest

AUTO = "auto"
AUTO_ORDER = ("cuda", "cpu")
CPU = "cpu"


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: short, as in settings and metrics.
        onnx_name: ONNX Runtime's.
        extra: of this project, the one that installs it.
        remedy: what to do where it is installed and does not work.
        options: the default options; the user's override them.
        fallbacks: providers that run the nodes that it does not support, in order.
        load_libraries: called before a session is opened; returns a message on what could not be loaded, or "".
        runs_on_host: whether the host's processors run the network; if not, batches are padded to sizes that were
            warmed up.
        warmup_order: for a maximum batch size, the batch sizes to run before all others.
        plans_for_one_shape: whether it keeps its plan for the last shape only.
    """

    name: str
    onnx_name: str
    extra: str = "cpu"
    remedy: str = ""
    options: Callable[[SessionRequest], dict[str, str]] = lambda _: {}
    fallbacks: tuple[str, ...] = (CPU,)
    load_libraries: Callable[[], str] = lambda: ""
    runs_on_host: Callable[[SessionRequest], bool] = lambda _: False
    warmup_order: Callable[[int], tuple[int, ...]] = lambda _: ()
    caches_last_shape_only: bool = False


_TABLE = (
    Provider(CPU, "CPUExecutionProvider", fallbacks=(), runs_on_host=lambda _: True),
    Provider(
        "cuda",
        "CUDAExecutionProvider",
        extra="gpu",
        remedy=f"check the driver, CUDA and cuDNN (install both {how_to_install('gpu')}), or ask for auto.",
        options=cuda.options,
        load_libraries=cuda.load_libraries,
        caches_last_shape_only=True,
    ),
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        extra="gpu",
        remedy="install TensorRT beside the extra 'gpu', in the version that this ONNX Runtime needs, or ask for cuda.",
        options=tensorrt.options,
        fallbacks=("cuda", CPU),
        load_libraries=cuda.load_libraries,
        warmup_order=tensorrt.warmup_order,
    ),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        extra="openvino",
        remedy="check device_type and the other provider_options, or ask for cpu.",
        options=openvino.options,
        runs_on_host=openvino.runs_on_host,
    ),
)

PROVIDERS = {provider.name: provider for provider in _TABLE}
"""By short name."""


def short_name(onnx_name: str) -> str:
    """Return the short name of one of ONNX Runtime's providers; its own name if the table lacks it."""
    return next((provider.name for provider in _TABLE if provider.onnx_name == onnx_name), onnx_name)
