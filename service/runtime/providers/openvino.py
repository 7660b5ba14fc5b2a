"""OpenVINO: Intel's runtime, on the CPU unless `device_type` names another device (`GPU`, `GPU.1`, `NPU`, `AUTO`).

Where OpenVINO does not know a device it may take none of the network's nodes and still be listed: the placement of the
nodes tells, and that is an error like any other provider that was not got.
"""

from __future__ import annotations

from normfold.service.runtime.providers.session_request import Wish

_CPU = "CPU"


def options(wish: Wish) -> dict[str, str]:
    """Return our options.

    Raises:
        OSError: the cache cannot be written.
    """
    if runs_on_host(wish):
        # FP32: on processors that have bfloat16, OpenVINO would round to it by itself.
        return {"device_type": _CPU, "num_of_threads": str(wish.threads), "precision": "FP32"}
    chosen = {"precision": "ACCURACY"}  # the network's own; a GPU would take fp16
    if wish.cache is not None:
        folder = wish.cache / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        chosen["cache_dir"] = str(folder)
    return chosen


def runs_on_host(wish: Wish) -> bool:
    """Whether the host's processors do the work, as for the CPU provider."""
    return wish.options.get("device_type", _CPU) == _CPU
