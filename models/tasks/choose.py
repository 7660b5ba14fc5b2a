"""The task of a data set."""

from __future__ import annotations

from normfold.models.data.data import Dataset
from normfold.models.tasks.classification import Classification
from normfold.models.tasks.segmentation import Segmentation
from normfold.models.tasks.task import Task


def make_task(dataset: Dataset, label_smoothing: float = 0.0) -> Task:
    """Return the task of a data set.

    Args:
        dataset: its targets name the task.
        label_smoothing: of the loss that is minimised; evaluation does without.
    """
    kind = Segmentation if dataset.task == "segmentation" else Classification
    return kind(label_smoothing)
