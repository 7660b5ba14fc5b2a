"""Facts about a model in plain types: read, folded, and on request verified."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from normfold.contract.precision.record import Precision
    from normfold.contract.progress import ProgressCallback
    from normfold.export.fold.report import FoldReport
    from normfold.export.verify.timing import Timing
    from normfold.export.verify.verify import Verification

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class ValueRow:
    """An input or output of a model."""

    name: str
    dtype: str
    shape: str


@dataclass(frozen=True)
class Mark:
    """A node of the source, at its place in the graph's order.

    `reads` holds the places of the nodes that it reads, -1 for an input of the graph. `now` is its operator in the
    folded graph, None if it is no longer there. `absorbed` counts the BatchNormalization nodes that it absorbs, and
    `entry` is the place in the report of a BatchNormalization's own entry.
    """

    label: str
    operator: str
    is_layer: bool
    reads: tuple[int, ...]
    now: str | None
    absorbed: int = 0
    entry: int | None = None


@dataclass(frozen=True)
class Arc:
    """The arc of a BatchNormalization: from its mark to that of a node that absorbs it."""

    entry: int
    start: int
    end: int


@dataclass(frozen=True)
class Facts:
    """All that a page says. `folded_size`, `verification` and `timing` are None where they were not asked for.

    `precision` is that of the bundle in which the model lies, if it is not float32.
    """

    name: str
    sha256: str
    size: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[ValueRow, ...]
    outputs: tuple[ValueRow, ...]
    report: FoldReport
    marks: tuple[Mark, ...]
    arcs: tuple[Arc, ...]
    before: Counter[str]
    after: Counter[str]
    folded_size: int | None
    verification: Verification | None
    timing: Timing | None = None
    precision: Precision | None = None


def gather_facts(path: Path, verified: bool, progress: ProgressCallback, timed: bool = False) -> Facts:
    """Read a model, fold it in memory, and collect the facts about both.

    Args:
        path: of the model, which stays as it is.
        verified: also write the folded model to a temporary file and compare the two.
        progress: called with each step as it begins.
        timed: also write the folded model to a temporary file and time a run of each.

    Raises:
        ModelFileError, TrainingModeError: the model cannot be used, or cannot be run to verify it.
        WriteError: the temporary file cannot be written.
    """
    import onnx_ir.passes.common as common_passes

    from normfold.export.fold.fold import fold
    from normfold.export.graph.nodes import is_batchnorm
    from normfold.export.onnx_io.model_file import load_model

    progress("reading the model")
    model = load_model(path)
    common_passes.InlinePass()(model)
    nodes = list(model.graph.all_nodes())
    operators = [node.op_type for node in nodes]
    batchnorms = [place for place, node in enumerate(nodes) if is_batchnorm(node)]
    reads = _reads(model.graph, nodes)
    size = _size(path, model)
    inputs = _value_rows(value for value in model.graph.inputs if not value.is_initializer())
    outputs = _value_rows(model.graph.outputs)
    report = fold(model, progress)
    marks, arcs = _marks(nodes, operators, batchnorms, reads, report)
    folded_size, verification, timing = _run(path, model, report, verified, timed, progress)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(
        name=path.name,
        sha256=sha256,
        size=size,
        opsets={domain or "ai.onnx": number for domain, number in model.opset_imports.items()},
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        inputs=inputs,
        outputs=outputs,
        report=report,
        marks=marks,
        arcs=arcs,
        before=Counter(operator for operator in operators if operator != "Constant"),
        after=Counter(node.op_type for node in model.graph.all_nodes() if node.op_type != "Constant"),
        folded_size=folded_size,
        verification=verification,
        timing=timing,
    )


def _reads(graph: ir.Graph, nodes: Sequence[ir.Node]) -> list[tuple[int, ...]]:
    """Return, for each node, the places of the nodes that it reads; Constant nodes are weights, not neighbours."""
    places = {node: place for place, node in enumerate(nodes) if node.op_type != "Constant"}
    inputs = {value for value in graph.inputs if not value.is_initializer()}
    found = []
    for node in nodes:
        places_read = {places.get(producer) for value in node.inputs if value and (producer := value.producer())}
        if any(value in inputs for value in node.inputs):
            places_read.add(-1)
        found.append(tuple(sorted(place for place in places_read if place is not None)))
    return found


def _marks(
    nodes: Sequence[ir.Node],
    operators: Sequence[str],
    batchnorms: Sequence[int],
    reads: Sequence[tuple[int, ...]],
    report: FoldReport,
) -> tuple[tuple[Mark, ...], tuple[Arc, ...]]:
    """Return a mark for each node, and an arc for each BatchNormalization and node that absorbs it.

    `operators` and `batchnorms`, the places of BatchNormalization nodes, are as they were before the fold.
    """
    from normfold.export.graph.nodes import node_label

    named: dict[str, list[int]] = defaultdict(list)
    for place, node in enumerate(nodes):
        named[node_label(node)].append(place)
    arcs = [
        Arc(number, place, min(places, key=lambda other: abs(other - place)))
        for number, (place, entry) in enumerate(zip(batchnorms, report.entries, strict=True))
        for label in entry.into
        if (places := [other for other in named[label] if other != place])
    ]
    absorbed = Counter(arc.end for arc in arcs)
    entries = {place: number for number, place in enumerate(batchnorms)}
    marks = tuple(
        Mark(
            label=node_label(node),
            operator=operator,
            is_layer=operator in LAYERS and (operator != "MatMul" or any(_is_weight(value) for value in node.inputs)),
            reads=reads[place],
            now=None if node.graph is None else node.op_type,
            absorbed=absorbed[place],
            entry=entries.get(place),
        )
        for place, (node, operator) in enumerate(zip(nodes, operators, strict=True))
    )
    return marks, tuple(arcs)


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _value_rows(values: Iterable[ir.Value]) -> tuple[ValueRow, ...]:
    rows = []
    for value in values:
        sizes = None if value.shape is None else [size if isinstance(size, int) else size.value for size in value.shape]
        shape = "rank unknown" if sizes is None else " × ".join(str(size or "?") for size in sizes) or "scalar"
        rows.append(ValueRow(value.name or "", value.dtype.name.lower() if value.dtype else "unknown", shape))
    return tuple(rows)


def _size(path: Path, model: ir.Model) -> int:
    """Return the bytes of a model's file and of those that hold its weights."""
    from normfold.export.onnx_io.model_file import external_tensors

    files = {path.resolve()} | {Path(tensor.path).resolve() for tensor in external_tensors(model)}
    return sum(file.stat().st_size for file in files)


def _run(
    path: Path, model: ir.Model, report: FoldReport, verified: bool, timed: bool, progress: ProgressCallback
) -> tuple[int | None, Verification | None, Timing | None]:
    """Return how many bytes the folded model takes, how it compares with the file it came from, and how fast it is."""
    from normfold.contract.atomic_write import temporary_folder
    from normfold.export.files.fold_file import time_or_warn
    from normfold.export.onnx_io.model_file import save_model

    if not (verified or timed):
        return None, None, None
    with temporary_folder() as folder:
        folded = folder / "folded.onnx"
        save_model(model, folded)
        size = sum(file.stat().st_size for file in folder.iterdir())
        verification = _verify(path, folded, progress) if verified else None
        timing = time_or_warn(path, folded, report, progress=progress) if timed else None
        return size, verification, timing


def _verify(path: Path, folded: Path, progress: ProgressCallback) -> Verification:
    """Return how the folded model compares with the file it came from."""
    from normfold.export.errors import ModelFileError
    from normfold.export.verify.verify import verify

    progress("verifying")
    try:
        return verify(path, folded, progress=progress)
    except ModelFileError as error:
        which = "" if error.path == path else "when folded "
        hint = "--no-verify makes the page without verification."
        raise ModelFileError(path, f"{which}{error.problem} {hint}") from None
