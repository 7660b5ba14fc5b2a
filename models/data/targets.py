"""Targets of samples: what a network is trained to return, and the task that their dtype and shape mean."""

from __future__ import annotations

from typing import Literal

from normfold.contract.arrays import Array

TaskName = Literal["classification", "segmentation"]


def task_of(y: Array) -> TaskName:
    """Return the task of targets: class indices (N,) are for classification, masks (N, height, width) for segmentation.

    Args:
        y: int64.
    """
    return "classification" if y.ndim == 1 else "segmentation"
