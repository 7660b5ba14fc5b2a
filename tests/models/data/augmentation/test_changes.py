from __future__ import annotations

import numpy as np
import pytest
import torch

from normfold.contract.errors import MissingPackageError
from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing
from normfold.contract.source_card import IGNORED
from normfold.models.data.augmentation import choose
from normfold.models.data.augmentation.choose import make_augmentation
from normfold.models.data.augmentation.images import EpochAugmentation
from normfold.models.data.augmentation.names import AugmentationName
from normfold.models.errors import DataError

SIDE = 16

pytestmark = pytest.mark.slow  # the first import of kornia takes seconds


def changes(*names: AugmentationName, epoch: int = 1, process: int = 0, channels: int = 3) -> EpochAugmentation:
    of = ImagePreprocessing(
        channels=3 if channels == 3 else 1, height=SIDE, width=SIDE, mean=(0.4,) * channels, std=(0.2,) * channels
    )
    return EpochAugmentation(names, of, 7, epoch, process)


def batch(channels: int = 3, rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that show their masks: intensity 0.25 for class 0, 0.5 for 1, 0.75 for 2; some pixels have no class."""
    masks = torch.randint(3, (rows, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    shown = ((masks + 1) / 4).unsqueeze(1).expand(-1, channels, -1, -1)
    masks[:, 3, 5] = IGNORED
    return (shown - 0.4) / 0.2, masks


def intensity(x: torch.Tensor) -> torch.Tensor:
    return x * 0.2 + 0.4


@pytest.mark.parametrize("name", ["flip", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_move_with_their_images(name: AugmentationName, channels: int) -> None:
    x, y = batch(channels)
    changed, masks = changes(name, channels=channels)(0, x, y)
    assert masks.dtype == y.dtype
    assert not torch.equal(masks, y)
    has_class = masks != IGNORED
    shown = (intensity(changed)[:, 0] * 4 - 1).round().long()
    assert (shown == masks)[has_class].all()
    assert has_class.float().mean() > 0.95
    assert (intensity(changed) >= -1e-6).all()
    assert (intensity(changed) <= 1 + 1e-6).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_changes_leave_masks_as_they_are(channels: int) -> None:
    x, y = batch(channels)
    changed, masks = changes("colour", channels=channels)(0, x, y)
    assert torch.equal(masks, y)
    assert not torch.allclose(changed, x, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_gives_no_class_to_pixels_outside_the_image(channels: int) -> None:
    x, y = batch(channels)
    y = torch.where(y == IGNORED, 0, y)
    without_class = 0
    for step in range(20):
        changed, masks = changes("randaugment", channels=channels)(step, x, y)
        assert changed.shape == x.shape
        assert set(masks.unique().tolist()) <= {IGNORED, 0, 1, 2}
        without_class += int((masks == IGNORED).sum())
    assert without_class > 0


def test_changes_are_a_function_of_seed_epoch_step_and_process() -> None:
    x, y = batch()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, masks = changes("crop", "flip", "colour")(0, x, y)
    assert torch.equal(torch.random.get_rng_state(), before)  # dropout's masks are those without augmentation
    torch.manual_seed(2)
    again, same_masks = changes("crop", "flip", "colour")(0, x, y)
    assert torch.equal(first, again)
    assert torch.equal(masks, same_masks)
    others = [
        changes("crop", "flip", "colour")(1, x, y),
        changes("crop", "flip", "colour", epoch=2)(0, x, y),
        changes("crop", "flip", "colour", process=1)(0, x, y),
    ]
    assert not any(torch.equal(first, other) for other, _ in others)


def test_classes_of_images_stay() -> None:
    x, _ = batch()
    y = torch.arange(8)
    assert torch.equal(changes("flip", "crop", "randaugment")(0, x, y)[1], y)


def test_augmentation_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowPreprocessing(columns=("a",), mean=(0.0,), std=(1.0,))
    with pytest.raises(DataError, match="`augment` is for images; 'csv:x.csv' has samples of another kind"):
        make_augmentation(("flip",), 0.0, rows, source="csv:x.csv", seed=0, process=0)
    assert make_augmentation((), 0.2, rows, source="csv:x.csv", seed=0, process=0).of_epoch(1) is None
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match="`augment` needs the package 'kornia'"):
        make_augmentation(("flip",), 0.0, changes().preprocessing, source="x", seed=0, process=0)


def test_flip_reverses_about_half_of_the_images() -> None:
    x, y = batch(rows=64)
    changed, _ = changes("flip")(0, x, y)
    flipped = np.array([torch.allclose(one, other.flip(-1), atol=1e-5) for one, other in zip(changed, x, strict=True)])
    same = np.array([torch.allclose(one, other, atol=1e-5) for one, other in zip(changed, x, strict=True)])
    assert (flipped ^ same).all()
    assert 16 < flipped.sum() < 48
