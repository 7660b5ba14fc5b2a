"""Write an ONNX file in a lower precision: folded, verified, converted, proven, and only then there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from normfold.contract.atomic_write import atomic_path, temporary_folder
from normfold.contract.errors import WriteError
from normfold.contract.precision.record import Precision
from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.contract.source_card import SourceCard
from normfold.export.adapt.read_samples import read_samples_of_file
from normfold.export.bundle.folded_network import FoldedNetwork
from normfold.export.bundle.statistics import stored_batchnorms
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.report import FoldReport
from normfold.export.onnx_io.model_file import load_model
from normfold.export.onnx_io.source_weights import keep_source_weights
from normfold.export.precision.options import PrecisionOptions, conversion
from normfold.export.verify.runner import input_infos
from normfold.export.verify.verify import Verification


@dataclass(frozen=True)
class QuantizedFile:
    """The report of the fold, its verification, the precision with its proof, and warnings about the samples."""

    report: FoldReport
    verification: Verification
    precision: Precision
    warnings: tuple[str, ...] = ()


def quantize_file(
    source: Path,
    target: Path,
    options: PrecisionOptions,
    card: SourceCard | None = None,
    inputs: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> QuantizedFile:
    """Fold a file, convert it to a lower precision, and write the result if it is near enough.

    Args:
        source: the float32 model; statistics are those of its own BatchNormalization nodes.
        target: path of the model to write; an existing file is replaced, as a whole.
        options: of the conversion.
        card: of the model: how samples are standardised, the range of its input, which outputs are logits.
        inputs: an .npz file to verify the fold with; random inputs without it.
        progress: called with each step as it begins.

    Raises:
        ModelFileError, TrainingModeError, QuantizeError: the model cannot be used.
        SampleError, PixelError, ModelInputError: the samples or inputs cannot be used.
        AdaptationError: the samples are too few, too many, or all the same.
        VerificationError, Float16OverflowError, PrecisionLossError: the result differs, overflows, or is not faster.
        WriteError: the target cannot be written.
    """
    if not target.name or target.is_dir():
        raise WriteError(target, "it is a folder")
    card = card or SourceCard()
    keep_source_weights(source, target, load_model(source))
    with temporary_folder() as folder:
        folded = folder / "folded.onnx"
        found = fold_file(source, folded, inputs=inputs, progress=progress)
        assert found.verification is not None
        model = load_model(folded)
        samples = None
        if options.samples is not None:
            progress("reading the samples")
            samples = read_samples_of_file(options.samples, folded, model, card.preprocessing, options.as_tensors)
        network = FoldedNetwork(
            folded,
            source,
            source,
            stored_batchnorms(found.report),
            card,
            _takes_pixels(folded, model, card),
            found.verification.batchable,
        )
        convert = conversion(options, samples, card=card)
        with atomic_path(target) as path:
            precision = convert(network, path, progress)
    return QuantizedFile(found.report, found.verification, precision, () if samples is None else samples.warnings)


def _takes_pixels(path: Path, model: ir.Model, card: SourceCard) -> bool:
    """Return whether the one input is 8-bit pixels that the model standardises itself."""
    dtypes = [info.dtype for info in input_infos(path, model)]
    return dtypes == [ir.DataType.UINT8] and isinstance(card.preprocessing, ImagePreprocessing | None)
