"""The parameters of a session, from which each provider derives its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Options = Mapping[str, str]
"""Options of one provider, as ONNX Runtime takes them."""


@dataclass(frozen=True)
class SessionRequest:
    """The parameters with which a network is opened.

    Attributes:
        path: the ONNX file.
        threads: within one run, where the host's processors run the network.
        options: the user's, for the requested provider; they override the default options.
        device_id: index of the GPU.
        cache: writable folder for compiled engines; None: no cache.
        arena: let the CPU provider keep the memory of a run for the next one (`Session.shrink_arena` releases it).
        tf32: let CUDA multiply float32 in TF32.
    """

    path: Path
    threads: int = 1
    options: Options = field(default_factory=dict)
    device_id: int = 0
    cache: Path | None = None
    arena: bool = True
    tf32: bool = False


def as_text(options: Mapping[str, str | float | bool]) -> dict[str, str]:
    """Return options as ONNX Runtime takes them: strings; booleans as `True` and `False`."""
    return {name: str(value) for name, value in options.items()}
