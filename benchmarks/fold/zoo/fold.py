"""Fold one network, fold the result again, verify it, and time both files; print the record as one line of JSON.

python -m benchmarks.fold.zoo.fold LABEL source.onnx folded.onnx ROUNDS CORE
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import onnx

from benchmarks.fold.zoo.record import RATIO_LIMIT, Record
from benchmarks.latency import Ratio, measure, ratio
from benchmarks.machine import pinned
from normfold.export.files.fold_file import fold_file
from normfold.export.verify.verify import verify

MORE_ROUNDS = 5
"""Times the rounds for a network that seems slower than its source."""


def operators(path: Path) -> Counter[str]:
    """Return how many nodes of each operator a file holds."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def without_shapes(path: Path) -> bytes:
    """Return what a file computes: all of it but what it says of the shapes of inner values."""
    model = onnx.load(path)
    model.graph.ClearField("value_info")
    return model.SerializeToString(deterministic=True)


def fold_network(label: str, source: Path, folded: Path, rounds: int, core: int) -> Record:
    """Fold, fold again, verify and time one network; `rounds` 0 leaves times out."""
    started = time.process_time()
    report = fold_file(source, folded, verified=False).report
    seconds = time.process_time() - started
    again = folded.with_name("again.onnx")
    fold_file(folded, again, verified=False)
    verification = verify(source, folded)
    before, after = operators(source), operators(folded)
    return Record(
        network=label,
        batchnorm=before["BatchNormalization"],
        nodes=[before.total(), after.total()],
        left={"normfold": after["BatchNormalization"]},
        kept=report.kept,
        unchanged_again=without_shapes(again) == without_shapes(folded),
        error_over_noise=max(output.ratio for output in verification.outputs.values()),
        verified=verification.passes,
        ratio=time_ratio(source, folded, rounds, core) if rounds else None,
        seconds=seconds,
    )


def time_ratio(source: Path, folded: Path, rounds: int, core: int) -> list[float]:
    """Return processor time of a run, folded over source, with its interval; measured longer where it is over limit."""
    found = measured(source, folded, rounds, core)
    if found.value > RATIO_LIMIT:
        found = measured(source, folded, MORE_ROUNDS * rounds, core)
    return [found.value, found.low, found.high]


def measured(source: Path, folded: Path, rounds: int, core: int) -> Ratio:
    """Return the ratio over interleaved rounds."""
    with pinned(core):
        times = measure({"source": source, "folded": folded}, rounds, lambda _: None)
    return ratio(times["folded"], times["source"])


if __name__ == "__main__":
    label, source, folded, rounds, core = sys.argv[1:]
    print(fold_network(label, Path(source), Path(folded), int(rounds), int(core)).to_line())
