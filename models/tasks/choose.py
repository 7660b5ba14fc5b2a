"""The task of a data set, with the options of training."""

from __future__ import annotations

from normfold.contract.outputs.task import DEFAULT_THRESHOLD
from normfold.models.data.data import Dataset
from normfold.models.errors import DataError
from normfold.models.tasks.classification import Classification
from normfold.models.tasks.multi_label import MultiLabel
from normfold.models.tasks.own import OwnFunctions
from normfold.models.tasks.regression import Regression
from normfold.models.tasks.segmentation import Segmentation
from normfold.models.tasks.task import Task
from normfold.models.tasks.weights import Weights, class_weights


def make_task(
    dataset: Dataset,
    *,
    label_smoothing: float = 0.0,
    weights: Weights = None,
    threshold: float | None = None,
    loss: str | None = None,
    metrics: tuple[str, ...] = (),
) -> Task:
    """Return the task of a data set.

    Args:
        dataset: its targets say the task.
        label_smoothing: of the loss that is minimised; evaluation does without.
        weights: of classes, labels or targets in the loss that is minimised.
        threshold: of labels.
        loss: module:function of the user's own loss.
        metrics: module:function of the user's own metrics.

    Raises:
        DataError: an option is not for the task.
        FunctionError: there is no such function.
    """
    if threshold is not None and dataset.task != "multi-label":
        raise DataError(f"`threshold` is for multi-label; the task is {dataset.task}.")
    values = class_weights(dataset, weights)
    task: Task
    if dataset.target_scale is not None:
        task = Regression(dataset.labels, dataset.target_scale, values)
    elif dataset.task == "multi-label":
        task = MultiLabel(dataset.labels, threshold or DEFAULT_THRESHOLD, values)
    elif dataset.task == "segmentation":
        task = Segmentation(label_smoothing, values)
    else:
        task = Classification(label_smoothing, values)
    return OwnFunctions(task, loss, metrics) if loss is not None or metrics else task
