"""`normfold study`."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from normfold._shared.packages import require_export, require_packages
from normfold.display.terminal.console import err, out, print_json

if TYPE_CHECKING:
    from normfold.models.study.finding import Finding

NEEDED = ("torch", "sklearn", "matplotlib")

QUICK_STEPS, QUICK_ROUNDS = 60, 10


def study(
    folder: Annotated[Path, typer.Option("--out", help="Folder for index.html, and a PNG and a CSV a claim.")],
    seeds: Annotated[int, typer.Option(min=2, max=100, help="Networks of each kind; errors are over them.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="Train for 60 steps, not 300: a look at the report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the claims about batch normalisation on handwritten digits, and write a report.

    The same networks with BatchNorm and without: inputs of layers, convergence, learning rates, initial weights,
    regularisation, generalisation, batch sizes, modes at serving time, cost. Verdicts follow from the numbers.

    Example: `normfold study --out build/study`
    """
    require_packages(*NEEDED, extra="train", needed_for="normfold study")
    require_export("normfold study")
    from normfold.contract.atomic_write import os_errors_as_write_errors

    started = time.perf_counter()
    with os_errors_as_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").unlink(missing_ok=True)  # an old report never stands beside new pictures
    findings = list(_measure(range(seeds), quick))
    seconds = time.perf_counter() - started
    record = {
        "seeds": seeds,
        "quick": quick,
        "seconds": round(seconds, 1),
        "findings": [finding.to_dict() for finding in findings],
    }
    with os_errors_as_write_errors(folder):
        _write(folder, findings, record)
    if as_json:
        print_json(record)
    else:
        out.print(_verdict_table(findings))
        out.print(f"{folder / 'index.html'}, after {seconds:.0f} s.", markup=False)


def _measure(seeds: Sequence[int], quick: bool) -> Iterator[Finding]:
    """Run one experiment after the other, telling which."""
    import torch

    from normfold.cli.study.cost import ROUNDS, run_cost
    from normfold.models.study.experiments import EXPERIMENTS, STEPS

    steps, rounds = (QUICK_STEPS, QUICK_ROUNDS) if quick else (STEPS, ROUNDS)
    experiments: dict[str, Callable[[], Finding]] = {
        name: lambda run=run: run(seeds, steps)  # type: ignore[misc]
        for name, run in EXPERIMENTS.items()
    }
    experiments["cost"] = lambda: run_cost(seeds, rounds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are small: more threads only wait for each other
    try:
        with err.status("starting") as status:
            for number, (name, run) in enumerate(experiments.items(), start=1):
                status.update(f"{number} of {len(experiments)}: {name}")
                began = time.perf_counter()
                yield run()
                err.print(f"{number} of {len(experiments)}: {name}, {time.perf_counter() - began:.0f} s", markup=False)
    finally:
        torch.set_num_threads(threads)


def _write(folder: Path, findings: Sequence[Finding], record: dict[str, Any]) -> None:
    """Write pictures, tables and record, and the page last."""
    from normfold.display.pages.study_page import study_page
    from normfold.models.study.finding import RULE

    for finding in findings:
        (folder / f"{finding.name}.png").write_bytes(finding.picture)
        (folder / f"{finding.name}.csv").write_text(finding.table.to_csv(), encoding="utf-8")
    (folder / "study.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(study_page(findings, _setup(record), RULE), encoding="utf-8")


def _setup(record: dict[str, Any]) -> str:
    import torch

    quick = " A quick look: too few steps for verdicts to mean much." if record["quick"] else ""
    return (
        "Scikit-learn’s handwritten digits, pictures of 8 × 8; the same networks with BatchNorm and without, from the "
        f"same weights, on the same batches; {record['seeds']} seeds; plain stochastic gradient descent at a constant "
        f"learning rate. Measured in {record['seconds']:.0f} s on one thread of {platform.machine()}, with PyTorch "
        f"{torch.__version__}.{quick}"
    )


def _verdict_table(findings: Sequence[Finding]) -> Table:
    shown = Table("claim", "verdict", title="On these data", title_justify="left")
    for finding in findings:
        for check in finding.checks:
            shown.add_row(check.claim, check.verdict.value)
    return shown
