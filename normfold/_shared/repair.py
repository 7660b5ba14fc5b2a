"""`normfold.repair`: BatchNormalization nodes in training mode get inference mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.argument_checks import FLAG, PATH, check, check_as_tensors, check_optional
from normfold._shared.overwrite import require_other_file
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.sources.source import Source
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from normfold.export.repair.repair import RepairedNode


@dataclass(frozen=True, repr=False)
class RepairResult:
    """The result of `repair`.

    Attributes:
        target: the repaired model.
        nodes: each BatchNormalization that was repaired, why, and where its statistics come from.
        removed_outputs: outputs that the model no longer has: statistics that training mode updated.
        warnings: what else to know, one sentence each.
    """

    target: Path
    nodes: tuple[RepairedNode, ...]
    removed_outputs: tuple[str, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        count = len(self.nodes)
        return f"RepairResult({str(self.target)!r}: {count} BatchNormalization node{'s' * (count != 1)} repaired)"


def repair(
    source: AnyPath,
    target: AnyPath,
    *,
    samples: AnyPath | None = None,
    card: AnyPath | None = None,
    as_tensors: bool | None = None,
    force: bool = False,
    progress: Progress = False,
) -> RepairResult:
    """Put the BatchNormalization nodes of an ONNX file that normalise by the batch into inference mode.

    They do so in training mode (training_mode=1; below opset 14, more than one output), or where their mean and
    variance are computed from the batch, as exporters write layers without running statistics. They get the statistics
    that the file holds, or with `samples` those of their inputs, layer after layer, each on what the repaired layers
    before it give. Other BatchNormalization nodes stay as they are. The outputs change, so there is nothing to verify
    against.

    Example:
        >>> import normfold
        >>> normfold.repair("exported.onnx", "repaired.onnx").nodes[0].cause
        <Cause.TRAINING_MODE: 'training mode'>

    Args:
        source: the model, from any exporter, opset 7 or newer.
        target: path of the repaired model to write; an existing file is replaced as a whole, a file that is read only
            with `force`.
        samples: at least 32 inputs without labels, as `adapt` reads them: an .npz (raw inputs "x", or tensors by the
            names of the network's inputs); a folder of images or a .csv with a card. Without it, the stored statistics
            are taken.
        card: the source card, a JSON file that says how raw inputs are standardised; the one beside the model without
            it.
        as_tensors: whether an .npz holds tensors; derived from the names of its arrays without it.
        force: write over `source` if `target` is the same file.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: an argument cannot be used, or `target` is `source`.
        RepairError: a node has no statistics of its own and there are no samples, or the batch's statistics are read.
        ModelFileError, ManifestError: the model or its card cannot be used.
        SampleError, PixelError, ModelInputError: the samples cannot be read.
        NotAdaptableError: statistics cannot be taken from the samples.
        AdaptationError: the samples are too few, too many, all alike, or their first half is not like their second.
        WriteError: `target` cannot be written.
    """
    check(PATH, source=source, target=target)
    check_optional(PATH, samples=samples, card=card)
    check_optional(FLAG, as_tensors=as_tensors)
    check(FLAG, force=force)
    check_as_tensors(as_tensors, samples)
    given = Source.of(source)
    if given.is_factory or given.bundle is not None or (Path(source).is_dir() and not given.is_onnx):
        raise ArgumentError(
            f"{given.text!r} is not an ONNX file, and normfold repair takes no other source: bundles and run folders "
            "are in inference mode, and a network is put into it by network.eval()."
        )
    require_export("normfold repair")
    from normfold._shared.sources.resolve import read_card
    from normfold.export.repair.repair import repair_file

    require_other_file(target, source, samples, card, force=force)
    model, repaired = Path(source), Path(target)
    preprocessing = read_card(model, optional_path(card)).preprocessing
    with progress_callback(progress) as progress:
        found = repair_file(model, repaired, optional_path(samples), preprocessing, as_tensors, progress)
    return RepairResult(repaired, found.nodes, found.removed_outputs, found.warnings)
