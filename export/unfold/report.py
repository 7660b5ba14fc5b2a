"""The report of an unfold: where a BatchNormalization stands again, and where none does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UnfoldedLayer:
    """A BatchNormalization, the node that it stands behind ("" for an input), and its channels where they are known."""

    node: str
    behind: str
    channels: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {"node": self.node, "behind": self.behind, "channels": self.channels}


@dataclass(frozen=True)
class UnfoldReport:
    """Every BatchNormalization that was put into the graph, and one sentence for each that was not."""

    layers: tuple[UnfoldedLayer, ...]
    left: tuple[str, ...] = ()
