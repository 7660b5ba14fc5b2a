"""The providers: our names and ONNX Runtime's, what each needs before it is opened, and what to do where it is missing.

`auto` tries CUDA and then the CPU. Not TensorRT: it builds an engine for each model, which takes minutes, and a service
that starts minutes late without having been asked to is no default. Nor OpenVINO: who installs it names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from normfold.contract.install import how_to_install
from normfold.service.runtime.providers import cuda, openvino, tensorrt
from normfold.service.runtime.providers.session_request import Wish

AUTO = "auto"
AUTO_ORDER = ("cuda", "cpu")
CPU = "cpu"


@dataclass(frozen=True)
class Provider:
    """One provider.

    Attributes:
        name: ours.
        onnx_name: ONNX Runtime's.
        extra: of this project's extras, the one that installs it.
        remedy: what to do if it is installed and not got.
        options: ours; the user's go before them.
        behind: those that take the nodes that it cannot.
        load_libraries: called before a session is opened; returns what could not be loaded.
        runs_on_host: whether the host's processors do the work; if not, batches are padded to sizes that were warmed.
        first_sizes: of a largest batch, those to run before all others.
        plans_for_one_shape: whether what it prepared for a shape is lost when another one is run.
    """

    name: str
    onnx_name: str
    extra: str = "cpu"
    remedy: str = ""
    options: Callable[[Wish], dict[str, str]] = lambda _: {}
    behind: tuple[str, ...] = (CPU,)
    load_libraries: Callable[[], str] = lambda: ""
    runs_on_host: Callable[[Wish], bool] = lambda _: False
    first_sizes: Callable[[int], tuple[int, ...]] = lambda _: ()
    plans_for_one_shape: bool = False


_TABLE = (
    Provider(CPU, "CPUExecutionProvider", behind=(), runs_on_host=lambda _: True),
    Provider(
        "cuda",
        "CUDAExecutionProvider",
        extra="gpu",
        remedy=f"check the driver, CUDA and cuDNN (install both {how_to_install('gpu')}), or ask for auto.",
        options=cuda.options,
        load_libraries=cuda.load_libraries,
        plans_for_one_shape=True,
    ),
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        extra="gpu",
        remedy="install TensorRT beside the extra 'gpu', in the version that this ONNX Runtime takes, or ask for cuda.",
        options=tensorrt.options,
        behind=("cuda", CPU),
        load_libraries=cuda.load_libraries,
        first_sizes=tensorrt.first_sizes,
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
"""By our name."""


def our_name(onnx_name: str) -> str:
    """Return our name for one of ONNX Runtime's; its own where we have none."""
    return next((provider.name for provider in _TABLE if provider.onnx_name == onnx_name), onnx_name)
