"""The GPU of a measurement, and what `make bench-gpu` needs besides it."""

from __future__ import annotations

import subprocess


def gpu_line() -> str:
    """Return the GPU's name and its driver; empty if there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_missing(gpu: str, providers: list[str]) -> str:
    """Return what is missing to measure on a GPU, in one sentence; empty if nothing is.

    Args:
        gpu: of `gpu_line`.
        providers: ONNX Runtime's, built in.
    """
    missing = [] if gpu else ["an NVIDIA GPU with its driver (nvidia-smi finds none)"]
    if "CUDAExecutionProvider" not in providers:
        missing.append("an ONNX Runtime with CUDA (the extra 'gpu' in place of 'cpu')")
    if not missing:
        return ""
    return f"This benchmark needs {' and '.join(missing)}; --device cpu runs its code on a small network."
