"""Segmentation: one class for each pixel, by cross entropy over the pixels with a class."""

from __future__ import annotations

from torch import Tensor

from normfold.models.tasks.classification import Classification, ClassMeter
from normfold.models.tasks.task import Meter, Result


class Segmentation(Classification):
    """Cross entropy of logits (N, classes, height, width); the metric is accuracy, and mean IoU beside it."""

    name = "segmentation"

    def new_meter(self) -> Meter:
        """Return a meter of loss, accuracy and mean IoU."""
        return PixelMeter()


class PixelMeter(ClassMeter):
    """As of classes, with mean IoU."""

    def result(self) -> Result:
        """Return means over all pixels with a class, and mean IoU over these."""
        found = super().result()
        return Result(found.loss, found.metrics | {"mean_iou": mean_iou(self.confusion)})


def mean_iou(confusion: Tensor) -> float:
    """Return the intersection over union of each class, averaged over the classes that occur.

    With c[i, j] the number of pixels of class i that were predicted as class j:
        IoU_i = c[i, i] / (sum of row i + sum of column i - c[i, i])

    Source: Everingham et al. 2015, International Journal of Computer Vision 111, section 4.1.3.

    Args:
        confusion: counts, (classes, classes), not all zero. Classes that occur neither in the masks nor in the
            predictions do not count.
    """
    counts = confusion.cpu().double()  # not every accelerator has float64
    intersection = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - intersection
    occurs = union > 0
    return (intersection[occurs] / union[occurs]).mean().item()
