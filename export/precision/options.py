"""What a user asks for, with the samples that are at hand, as a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from normfold.contract.outputs.task import Regression
from normfold.contract.precision.record import DEFAULT_MAX_DROP, PrecisionKind, Recipe
from normfold.contract.source_card import SourceCard
from normfold.export.adapt.samples import MIN_SAMPLES, Samples, require_usable
from normfold.export.adapt.split_samples import split_samples
from normfold.export.arrays import Tensor
from normfold.export.errors import QuantizeError
from normfold.export.precision.read_labels import LABELS, read_labels
from normfold.export.quantize.lower_precision import LowerPrecision
from normfold.export.verify.runner import Inputs

RangeSource = Literal["statistics", "recorded", "samples"]


@dataclass(frozen=True)
class PrecisionOptions:
    """Options of a conversion.

    Attributes:
        kind: int8 or float16.
        samples: what ranges are taken from, and what both networks are compared on (`export.adapt.read_samples`); an
            array `y` of an .npz holds their labels.
        as_tensors: whether an .npz holds tensors; None to decide by the names of its arrays.
        ranges_from: of activations, in int8; None for samples where there are some, otherwise for recorded ranges where
            there are some, otherwise for statistics.
        float16_io: make inputs and outputs float16 too.
        max_drop: largest loss of accuracy, or of agreement without labels.
        force: write an int8 network that is not faster.
    """

    kind: PrecisionKind = PrecisionKind.INT8
    samples: Path | None = None
    as_tensors: bool | None = None
    ranges_from: RangeSource | None = None
    float16_io: bool = False
    max_drop: float = DEFAULT_MAX_DROP
    force: bool = False

    def recipe(self, has_samples: bool, has_recorded: bool = False) -> Recipe:
        """Return the options that a manifest keeps.

        Raises:
            QuantizeError: ranges shall come from samples, or be recorded ones, and there are none.
        """
        if self.ranges_from == "samples" and not has_samples:
            raise QuantizeError("Ranges shall come from samples, and none are given: name them with `samples`.")
        if self.ranges_from == "recorded" and not has_recorded:
            raise QuantizeError(
                "No ranges are recorded with this network, as an export of a run folder and adapt record them; give "
                "`samples`, or `ranges` statistics."
            )
        usual: RangeSource = "samples" if has_samples else "recorded" if has_recorded else "statistics"
        return Recipe(
            ranges_from=self.ranges_from or (usual if self.kind is PrecisionKind.INT8 else "statistics"),
            float16_io=self.float16_io,
            max_drop=self.max_drop,
            force=self.force,
        )


def conversion(
    options: PrecisionOptions,
    samples: Samples | None,
    has_recorded: bool = False,
    card: SourceCard | None = None,
) -> LowerPrecision:
    """Return the conversion of a network.

    Args:
        options: of the user.
        samples: those that `options.samples` names, as the folded network takes them.
        has_recorded: ranges are recorded with the network.
        card: of the network; labels may be its names of classes, or values that it predicts.

    Raises:
        QuantizeError: ranges shall come from samples, or be recorded ones, and there are none.
        SampleCountError: the samples are too few, or too many.
        IdenticalSamplesError: they are all the same.
        ModelInputError, SampleError: the labels cannot be used.
    """
    recipe = options.recipe(samples is not None, has_recorded)
    if samples is None or options.samples is None:
        return LowerPrecision(options.kind, recipe)
    require_usable(samples, MIN_SAMPLES)
    found = split_samples(samples, recipe.ranges_from == "samples")
    is_input = LABELS in found.rows and options.as_tensors is not False
    card = SourceCard() if card is None else card
    are_values = isinstance(card.task, Regression)
    labels = None if is_input else read_labels(options.samples, samples.count, card.labels, are_values=are_values)
    return LowerPrecision(
        options.kind, recipe, found.calibration, found.rows, None if labels is None else labels[found.places]
    )


def conversion_of_rows(
    options: PrecisionOptions, rows: Inputs, labels: Tensor | None, has_recorded: bool
) -> LowerPrecision:
    """Return the conversion of a network that is compared on rows of its own data.

    Args:
        options: of the user, without samples.
        rows: to compare both networks on, which were held out of training.
        labels: the classes of `rows`.
        has_recorded: ranges are recorded on others of these data.

    Raises:
        QuantizeError: ranges shall come from samples, or be recorded ones, and there are none.
    """
    recipe = options.recipe(False, has_recorded)
    return LowerPrecision(options.kind, recipe, None, rows, labels, rows_from="held_out")
