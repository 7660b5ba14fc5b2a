"""OpenVINO: Intel's runtime, on the CPU unless `device_type` names another device (`GPU`, `GPU.1`, `NPU`, `AUTO`).

Where OpenVINO does not know a device it may run none of the network's nodes and still be listed as a provider: the
placement of the nodes shows it, and opening the session fails.
"""

from __future__ import annotations

from normfold.service.runtime.providers.session_request import SessionRequest

_CPU = "CPU"


def options(request: SessionRequest) -> dict[str, str]:
    """Return the default options.

    Raises:
        OSError: the cache cannot be written.
    """
    if runs_on_host(request):
        # FP32: on processors with bfloat16, OpenVINO would compute in that.
        return {"device_type": _CPU, "num_of_threads": str(request.threads), "precision": "FP32"}
    chosen = {"precision": "ACCURACY"}  # the network's own; by default a GPU computes in FP16
    if request.cache is not None:
        folder = request.cache / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        chosen["cache_dir"] = str(folder)
    return chosen


def runs_on_host(request: SessionRequest) -> bool:
    """Return whether the host's processors run the network, as with the CPU provider."""
    return request.options.get("device_type", _CPU) == _CPU
