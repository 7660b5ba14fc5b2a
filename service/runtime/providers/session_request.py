"""What is wished of a provider, and what a provider makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Options = Mapping[str, str]
"""Options of one provider, as ONNX Runtime takes them."""


@dataclass(frozen=True)
class Wish:
    """What a network is to be opened with.

    Attributes:
        path: the ONNX file.
        threads: within one run, where the host's processors do the work.
        options: of the provider that is asked for; they go before our own.
        device_id: which GPU, counted from 0.
        cache: a folder that may be written, for what takes long to build; None: nothing is kept.
        arena: keep the memory of a run on the CPU for the next one, and give it back only when asked to.
    """

    path: Path
    threads: int = 1
    options: Options = field(default_factory=dict)
    device_id: int = 0
    cache: Path | None = None
    arena: bool = True


def as_text(options: Mapping[str, str | float | bool]) -> dict[str, str]:
    """Return options as ONNX Runtime takes them: texts, `True` and `False` for yes and no."""
    return {name: str(value) for name, value in options.items()}
