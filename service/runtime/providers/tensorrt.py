"""TensorRT: engines built for one network on one GPU, cached on disk.

Written from ONNX Runtime's documentation, not tested with TensorRT. Nodes that TensorRT does not support run on CUDA,
and those that CUDA does not support on the CPU: the placement of the nodes shows it.

ONNX Runtime names a cached engine after the graph's names and not after its weights, so that two versions of one
architecture would share an engine: each bundle and set of options has its own folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from normfold.contract.manifest import MANIFEST_NAME, sha256_of
from normfold.service.runtime.providers.session_request import SessionRequest


def options(request: SessionRequest) -> dict[str, str]:
    """Return the default options; create the folders of the caches.

    Raises:
        OSError: the cache cannot be written.
    """
    # FP16 changes results: it is on only where the user's options say so.
    chosen = {"device_id": str(request.device_id), "trt_fp16_enable": "False"}
    if request.cache is None:
        return chosen
    engines, timings = engine_folder(request.cache, request), request.cache / "tensorrt" / "timings"
    for folder in (engines, timings):
        folder.mkdir(parents=True, exist_ok=True)
    return {
        **chosen,
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(timings),
    }


def engine_folder(cache: Path, request: SessionRequest) -> Path:
    """Return the folder of a network's engines, by its bytes, its options and ONNX Runtime's version."""
    import onnxruntime

    manifest = request.path.parent / MANIFEST_NAME  # has the sha256 of every file, external weights included
    facts = [
        sha256_of(manifest if manifest.exists() else request.path),
        onnxruntime.__version__,
        str(request.device_id),
    ]
    facts += [f"{name}={value}" for name, value in sorted(request.options.items())]
    return cache / "tensorrt" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def warmup_order(max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes to run before any other: the smallest and the largest.

    An engine serves the range of shapes that it has seen; a shape outside of it builds a new engine, which may take
    minutes.
    """
    return (1, max_batch_size) if max_batch_size > 1 else (1,)
