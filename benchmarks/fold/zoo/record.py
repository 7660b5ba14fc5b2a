"""What is known of one network: one line of JSON in a file, so that a run which was ended goes on where it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

RATIO_LIMIT = 1.03
TOOLS = ("exporter", "onnxruntime", "onnxslim", "onnxsim")
"""What Normfold is compared with; see `benchmarks.fold.zoo.tools`."""


@dataclasses.dataclass
class Record:
    """One network.

    Attributes:
        network: its line of the list.
        failed: the step that failed, and its last line; then what follows is empty. Steps before `fold` are no fault.
        batchnorm: BatchNormalization nodes of the source.
        nodes: all nodes of the source, and of the folded file.
        left: BatchNormalization nodes that are left, by Normfold and by each tool that could read the file.
        kept: reason code to the number of BatchNormalization nodes kept for it.
        unchanged_again: a second fold changes no node and no weight.
        error_over_noise: of the output for which it is largest.
        verified: by `export.verify.verify`.
        ratio: processor time of a run, folded over source, with its 95 % interval; None if it was not measured.
        seconds: processor seconds of the fold, reading and writing included.
    """

    network: str
    failed: str = ""
    batchnorm: int = 0
    nodes: list[int] = dataclasses.field(default_factory=list)
    left: dict[str, int] = dataclasses.field(default_factory=dict)
    kept: dict[str, int] = dataclasses.field(default_factory=dict)
    unchanged_again: bool = False
    error_over_noise: float = 0.0
    verified: bool = False
    ratio: list[float] | None = None
    seconds: float = 0.0

    @property
    def behind(self) -> dict[str, int]:
        """How many more BatchNormalization nodes Normfold leaves than each tool that leaves fewer."""
        own = self.left.get("normfold", 0)
        return {tool: own - count for tool, count in self.left.items() if count < own}

    def faults(self) -> list[str]:
        """Return what is wrong with the fold of this network."""
        if self.failed:
            return [] if self.failed.startswith("source: ") else [self.failed]
        slower = self.ratio is not None and self.ratio[1] > RATIO_LIMIT
        found = {
            f"{self.left.get('normfold')} left, {self.behind}": bool(self.behind),
            "a second fold changes it": not self.unchanged_again,
            f"error {self.error_over_noise:.1f} times the noise: not verified": not self.verified,
            f"{self.ratio} times the source's time, allowed {RATIO_LIMIT}": slower,
        }
        return [fault for fault, is_fault in found.items() if is_fault]

    def to_line(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def read_records(path: Path) -> dict[str, Record]:
    """Return what a file holds, by network; the last line of a network counts, and a line cut short does not."""
    records = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = Record(**json.loads(line))
        except ValueError:
            continue
        records[record.network] = record
    return records


def append_record(path: Path, record: Record) -> None:
    """Add a line to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(record.to_line() + "\n")


def total(records: Iterable[Record], tool: str) -> tuple[int, int]:
    """Return nodes left by a tool, and by Normfold on the same networks: those that the tool could read."""
    read = [record for record in records if tool in record.left]
    return sum(record.left[tool] for record in read), sum(record.left.get("normfold", 0) for record in read)
