"""The changes of training batches that a run asks for, checked against its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor

from normfold.contract.errors import SetupError
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.models.data.augmentation.images import AugmentationName, EpochAugmentation, make_transforms
from normfold.models.data.augmentation.mixup import Mixed, draw_mixed
from normfold.models.errors import DataError

BatchChange = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Changes samples and targets of a batch: called with the step, samples and targets."""


@dataclass(frozen=True)
class Augmentation:
    """Changes of training batches; validation and test rows, and those of recalibration, never change."""

    names: tuple[AugmentationName, ...]
    mixup: float
    preprocessing: Preprocessing
    seed: int
    process: int

    def of_epoch(self, epoch: int) -> BatchChange | None:
        """Return the changes of images of an epoch; None if there are none."""
        if not self.names or not isinstance(self.preprocessing, ImagePreprocessing):
            return None
        return EpochAugmentation(self.names, self.preprocessing, self.seed, epoch, self.process)

    def mix(self, x: Tensor, epoch: int, step: int) -> Mixed | None:
        """Return how samples of a batch are mixed; None without mixup."""
        if not self.mixup:
            return None
        return draw_mixed(self.mixup, len(x), x.device, seed=self.seed, epoch=epoch, step=step, process=self.process)


def check_augmentation(names: tuple[AugmentationName, ...], preprocessing: Preprocessing, source: str) -> None:
    """Check that changes of images are for images, that there is the package for them, and import it.

    It is imported here, once, so that worker processes have it when they start.

    Raises:
        DataError: the samples are no images, or too small to be cropped.
        SetupError: kornia is not installed.
    """
    if not names:
        return
    if not isinstance(preprocessing, ImagePreprocessing):
        raise DataError(f"`augment` is for images; {source!r} has samples of another kind.")
    if find_spec("kornia") is None:
        raise SetupError("`augment` needs kornia: pip install 'normfold[augment]'.")
    channels = 3 if "randaugment" in names else preprocessing.channels
    make_transforms(names, channels, preprocessing.height, preprocessing.width)
