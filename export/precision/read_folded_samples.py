"""Samples as a folded network takes them: pixels where it takes pixels, whatever the form in which they are given."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from normfold.contract.drift.samples import DRIFT_FOLDER
from normfold.contract.manifest import Manifest
from normfold.contract.source_card import SourceCard
from normfold.export.adapt.read_samples import read_kept_samples, read_samples
from normfold.export.adapt.samples import SampleFormat, Samples, as_pixels
from normfold.export.errors import SampleError
from normfold.export.precision.options import PrecisionOptions
from normfold.export.verify.runner import ValueInfo


def read_folded_samples(
    options: PrecisionOptions,
    infos: Sequence[ValueInfo],
    card: SourceCard,
    takes_pixels: bool,
    manifest: Manifest | None = None,
) -> Samples:
    """Read the samples that the options name.

    Args:
        options: of a user, with samples.
        infos: inputs of the network, folded or not.
        card: of the network.
        takes_pixels: the folded network takes pixels.
        manifest: of the version whose inputs a service may have kept; None where there is none.

    Raises:
        SampleError, ModelInputError, PixelError: the samples cannot be used.
    """
    path = options.samples
    if path is None:
        raise SampleError("No samples are given.")
    if takes_pixels:  # samples are standardised, as the network before its fold takes them
        infos = [ValueInfo(info.name, ir.DataType.FLOAT, info.shape) for info in infos]
    expected = SampleFormat(infos, card.preprocessing, takes_pixels)
    if manifest is not None and (path / DRIFT_FOLDER).is_dir():
        given = read_kept_samples(path, manifest, expected)
    else:
        given = read_samples(path, expected, options.as_tensors)
    return as_pixels(given, card.preprocessing) if takes_pixels else given
