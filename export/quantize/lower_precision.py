"""Convert a folded network to a lower precision, and prove how near it is, before it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from normfold.contract.precision.record import Precision, PrecisionKind, Recipe, RowOrigin
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Tensor
from normfold.export.bundle.folded_network import FoldedNetwork
from normfold.export.bundle.recorded_ranges import RecordedRanges
from normfold.export.errors import ModelFileError, QuantizeError
from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.channel_statistics import of_bundle
from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.export.quantize.float16.result import Float16Result
from normfold.export.quantize.input_ranges import input_range
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import Int8Options, Int8Result
from normfold.export.quantize.proof.class_outputs import class_outputs, labelled_output
from normfold.export.quantize.proof.constants import check_constants
from normfold.export.quantize.proof.prove import Pair, prove_float16, prove_int8
from normfold.export.quantize.proof.random_rows import random_rows
from normfold.export.quantize.proof.requirements import require
from normfold.export.quantize.proof.rows import ProofRows, fixed_batch_size
from normfold.export.quantize.proof.sessions import open_network
from normfold.export.quantize.record_ranges import as_channel_ranges
from normfold.export.verify.runner import Inputs, input_infos


@dataclass(frozen=True, eq=False)
class LowerPrecision:
    """The wanted precision, and the rows to make it and to prove it with: a `bundle.folded_network.Conversion`.

    Attributes:
        kind: int8 or float16.
        recipe: how to convert.
        calibration: rows that ranges are taken from, as the folded network takes them, where the recipe says samples.
        rows: to prove the result on; random ones where there are none.
        labels: the classes of these rows.
        rows_from: where these rows come from.
        must_be_faster: refuse an int8 network that is not, unless the recipe forces it.
    """

    kind: PrecisionKind
    recipe: Recipe = field(default_factory=Recipe)
    calibration: Inputs | None = None
    rows: Inputs | None = None
    labels: Tensor | None = None
    rows_from: RowOrigin = "samples"
    must_be_faster: bool = True

    def __call__(self, network: FoldedNetwork, target: Path, progress: ProgressCallback = ignore_progress) -> Precision:
        """Convert a network, and prove the result.

        Args:
            network: the folded float32 network.
            target: where the converted one goes.
            progress: called with each step as it begins.

        Raises:
            QuantizeError: there is nothing to quantise, or nothing to take ranges from, as the recipe says.
            Float16OverflowError: a value exceeds what float16 can hold.
            PrecisionLossError: the result is too far from float32, or not faster.
            ModelFileError, ModelInputError, SampleError: the network cannot be run, or the rows are not its own.
            WriteError: a file cannot be written.
        """
        try:
            return self._convert(network, target, progress)
        except ModelFileError as error:
            raise ModelFileError(network.shown_as, error.problem) from None
        except QuantizeError as error:
            raise QuantizeError(str(error).replace(str(network.path), str(network.shown_as))) from None

    def _convert(self, network: FoldedNetwork, target: Path, progress: ProgressCallback) -> Precision:
        model = load_model(network.path)
        infos = input_infos(network.path, model)
        limits = input_range(network.card, network.takes_pixels) if len(infos) == 1 else None
        ranges = {} if limits is None else {infos[0].name: limits}
        outputs = class_outputs(network.path, model, network.card)
        if self.rows is None:
            rows = random_rows(infos, open_network(network.path, optimised=True), ranges)
        else:
            labels = {} if self.labels is None else {labelled_output(self.labels, outputs): self.labels}
            rows = ProofRows(self.rows, labels, self.rows_from)
        pair = Pair(
            network.path,
            target,
            None if network.card.preprocessing is None else network.card.preprocessing.sample_shape,
            (*(outputs.names if outputs.are_known or not rows.labels else ()), *rows.labels),
            network.batchable,
            outputs.task,
        )
        if self.kind is PrecisionKind.INT8:
            result = self._to_int8(network, target, ranges, progress)
            check_constants(target, result)
            proof = prove_int8(pair, result, rows, progress)
        else:
            fixed = fixed_batch_size(infos)
            inputs = rows.inputs if fixed is None else rows.repeated(fixed)
            proof = prove_float16(pair, self._to_float16(network, target, inputs, progress), rows, progress)
        precision = Precision(
            kind=self.kind, recipe=self.recipe, range_rows=self._range_rows(network.recorded), proof=proof
        )
        require(precision, self.must_be_faster, outputs.are_known)
        return precision

    def _to_int8(
        self,
        network: FoldedNetwork,
        target: Path,
        ranges: dict[str, tuple[float, float]],
        progress: ProgressCallback,
    ) -> Int8Result:
        recipe, recorded = self.recipe, network.recorded
        if recipe.ranges_from == "recorded" and recorded is None:
            raise QuantizeError(
                f"No ranges could be recorded with {str(network.shown_as)!r}; give `samples`, or `ranges` statistics."
            )
        return quantize_int8(
            network.path,
            target,
            unfolded=network.unfolded,
            statistics=of_bundle(network.statistics),
            samples=self.calibration if recipe.ranges_from == "samples" else None,
            recorded=as_channel_ranges(recorded) if recipe.ranges_from == "recorded" and recorded else None,
            input_ranges=ranges,
            options=Int8Options(sigmas=recipe.sigmas, equalise=recipe.equalise, correct_bias=recipe.correct_bias),
            progress=progress,
        )

    def _range_rows(self, recorded: RecordedRanges | None) -> int | None:
        """Return the number of rows that the ranges come from; None where none do."""
        if self.kind is not PrecisionKind.INT8 or self.recipe.ranges_from == "statistics":
            return None
        if self.recipe.ranges_from == "recorded":
            return None if recorded is None else recorded.rows
        return min((len(array) for array in (self.calibration or {}).values()), default=None)

    def _to_float16(
        self, network: FoldedNetwork, target: Path, inputs: Inputs, progress: ProgressCallback
    ) -> Float16Result:
        found = of_bundle(network.statistics).values()
        statistics = {each.folded_value: each for each in found if each.folded_value is not None}
        return convert_to_float16(
            network.path,
            target,
            keep_io=not self.recipe.float16_io,
            statistics=statistics,
            inputs=inputs,
            progress=progress,
        )
