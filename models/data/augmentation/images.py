"""Random changes of the images of a training batch, and of their masks with them, by kornia.

    flip          left to right, half of the images
    crop          a part of the image's size, from the image with a border of an eighth reflected around it
    colour        brightness, contrast, saturation and hue; of grey images brightness and contrast
    randaugment   two of fifteen changes, drawn for each batch: Cubuk et al. 2020, arXiv:1909.13719

kornia works on torch's tensors, batches and masks, and needs nothing but torch. (torchvision's package does not load
beside torch's CPU build; albumentations is no longer maintained, and its successor is under the AGPL.)

The changes of a batch are a function of (seed, epoch, step, process): neither worker processes nor a resume alter them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import IGNORED

if TYPE_CHECKING:
    from kornia.augmentation import AugmentationSequential

AugmentationName = Literal["flip", "crop", "colour", "randaugment"]

BORDER_DIVISOR = 8
"""Height and width divided by the border around a cropped image: 4 pixels of 32, as He et al. 2016, section 4.2."""

CHANGED_FRACTION = 0.8
"""Fraction of the images whose colour changes."""


@dataclass(frozen=True)
class EpochAugmentation:
    """Changes of the batches of one epoch; it can be sent to another process."""

    names: tuple[AugmentationName, ...]
    preprocessing: ImagePreprocessing
    seed: int
    epoch: int
    process: int

    def __call__(self, step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            step: of the epoch, from 0.
            x: standardised images, (B, channels, height, width).
            y: targets; masks (B, height, width) are moved with their images, and have no class where nothing is shown.

        Returns:
            Images and targets of the same shapes.
        """
        mean, std = (torch.tensor(value, device=x.device)[:, None, None] for value in self._statistics)
        shown = (x * std + mean).clamp(0, 1)  # intensity, as kornia's changes of colour need it
        masks = y if y.ndim == 3 else y.new_zeros((len(y), *x.shape[2:]))
        numbers = torch.where(masks == IGNORED, 0, masks + 1).unsqueeze(1).float()  # 0: what kornia fills with
        grey = x.shape[1] == 1 and "randaugment" in self.names  # some of its changes take three channels
        given = shown.expand(-1, 3, -1, -1) if grey else shown
        seeds = np.random.SeedSequence((self.seed, self.epoch, step, self.process, 1))
        with torch.random.fork_rng(devices=[]):  # dropout's masks are drawn from the state outside
            torch.manual_seed(int(seeds.generate_state(1)[0]))
            changed, moved = make_transforms(self.names, given.shape[1], x.shape[2], x.shape[3])(given, numbers)
        if grey:
            changed = changed.mean(dim=1, keepdim=True)
        classes = moved.squeeze(1).round().to(y.dtype)
        targets = torch.where(classes == 0, IGNORED, classes - 1) if y.ndim == 3 else y
        return (changed.clamp(0, 1) - mean) / std, targets

    @property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.preprocessing.mean, self.preprocessing.std


@lru_cache(maxsize=4)
def make_transforms(
    names: tuple[AugmentationName, ...], channels: int, height: int, width: int
) -> AugmentationSequential:
    """Return the changes, in the order of the names, of images and their masks."""
    import kornia.augmentation as kornia
    from kornia.augmentation.auto import RandAugment
    from kornia.constants import DataKey, Resample

    padding = (height // BORDER_DIVISOR, width // BORDER_DIVISOR)
    colour = (
        [kornia.RandomBrightness((0.6, 1.4), p=CHANGED_FRACTION), kornia.RandomContrast((0.6, 1.4), p=CHANGED_FRACTION)]
        if channels == 1
        else [kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=CHANGED_FRACTION)]
    )
    made = {
        "flip": [kornia.RandomHorizontalFlip(p=0.5)],
        "crop": [kornia.RandomCrop((height, width), padding=padding, padding_mode="reflect")],
        "colour": colour,
        "randaugment": [RandAugment(n=2, m=9)],
    }
    nearest = {DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": None}}
    chosen = [transform for name in names for transform in made[name]]
    return kornia.AugmentationSequential(*chosen, data_keys=["input", "mask"], extra_args=nearest)
