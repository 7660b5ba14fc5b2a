"""Names of the changes of training images; this module does not import torch."""

from __future__ import annotations

from typing import Literal

AugmentationName = Literal["flip", "crop", "colour", "randaugment"]
