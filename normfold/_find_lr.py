"""`normfold.find_learning_rate`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, repr=False)
class LearningRateResult:
    """Result of a learning rate range test.

    Attributes:
        lr: suggested peak learning rate, at which the smoothed loss falls fastest.
        picture: PNG file of loss by learning rate.
        rates: learning rate of each step.
        losses: training loss of each step.
    """

    lr: float
    picture: Path
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def __repr__(self) -> str:
        return f"LearningRateResult(lr={self.lr:g}, picture={str(self.picture)!r})"

    def _repr_html_(self) -> str | None:
        """Return the picture for notebooks; None if the file is gone."""
        if not self.picture.is_file():
            return None
        image = b64encode(self.picture.read_bytes()).decode()
        return f'<img alt="Loss by learning rate" src="data:image/png;base64,{image}">'
