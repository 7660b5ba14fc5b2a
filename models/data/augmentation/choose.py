"""The changes of training batches that a run asks for, checked against its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor

from normfold.contract.errors import MissingPackageError
from normfold.contract.preprocess import ImagePreprocessing, Preprocessing
from normfold.models.data.augmentation.images import EpochAugmentation, make_transforms
from normfold.models.data.augmentation.mixup import Mixed, draw_mixed
from normfold.models.data.augmentation.names import AugmentationName
from normfold.models.errors import DataError

BatchChange = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Changes samples and targets of a batch: called with the step, samples and targets."""


@dataclass(frozen=True)
class Augmentation:
    """Changes of training batches; validation and test rows, and those of recalibration, never change."""

    names: tuple[AugmentationName, ...] = ()
    mixup: float = 0.0
    preprocessing: Preprocessing | None = None
    seed: int = 0
    process: int = 0

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


NO_AUGMENTATION = Augmentation()


def make_augmentation(
    names: tuple[AugmentationName, ...],
    mixup: float,
    preprocessing: Preprocessing,
    *,
    source: str,
    seed: int,
    process: int,
) -> Augmentation:
    """Return the changes of training batches, with their package imported.

    It is imported here, once, so that worker processes have it when they start.

    Args:
        names: of changes of images, in order.
        mixup: alpha of `draw_mixed`; 0 for none.
        preprocessing: of the samples.
        source: of the data, for the error.
        seed: of the run.
        process: index of this process.

    Raises:
        DataError: the samples are no images.
        MissingPackageError: kornia is not installed.
    """
    if names:
        if not isinstance(preprocessing, ImagePreprocessing):
            raise DataError(f"`augment` is for images; {source!r} has samples of another kind.")
        if find_spec("kornia") is None:
            raise MissingPackageError("kornia", "augment", "`augment`")
        channels = 3 if "randaugment" in names else preprocessing.channels
        make_transforms(names, channels, preprocessing.height, preprocessing.width)
    return Augmentation(names, mixup, preprocessing, seed, process)
