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
    from normfold.models.study.result import ExperimentResult

NEEDED = ("torch", "sklearn", "matplotlib")

QUICK_STEPS, QUICK_ROUNDS = 60, 10


def study(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the report, its plots and tables.")],
    seeds: Annotated[int, typer.Option(min=2, max=100, help="Number of networks of each kind.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="Train for 60 steps instead of 300.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Test claims about batch normalisation by experiments on handwritten digits, and write a report.

    The same networks are trained with and without BatchNorm. Nine experiments: inputs of layers, convergence, learning
    rates, initial weights, regularisation, generalisation, batch sizes, modes at serving time, and cost.

    Example: `normfold study --out build/study`
    """
    require_packages(*NEEDED, extra="train", needed_for="normfold study")
    require_export("normfold study")
    from normfold.contract.atomic_write import os_errors_as_write_errors

    started = time.perf_counter()
    with os_errors_as_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").unlink(missing_ok=True)  # an old report must not show new plots
    results = list(_measure(range(seeds), quick))
    seconds = time.perf_counter() - started
    record = {
        "seeds": seeds,
        "quick": quick,
        "seconds": round(seconds, 1),
        "results": [result.to_dict() for result in results],
    }
    with os_errors_as_write_errors(folder):
        _write(folder, results, record)
    if as_json:
        print_json(record)
    else:
        out.print(_verdict_table(results))
        out.print(f"{folder / 'index.html'}, after {seconds:.0f} s.", markup=False)


def _measure(seeds: Sequence[int], quick: bool) -> Iterator[ExperimentResult]:
    """Run the experiments in order, and report each on stderr."""
    import torch

    from normfold.cli.study.cost import ROUNDS, run_cost
    from normfold.models.study.experiments import EXPERIMENTS, STEPS

    steps, rounds = (QUICK_STEPS, QUICK_ROUNDS) if quick else (STEPS, ROUNDS)
    experiments: dict[str, Callable[[], ExperimentResult]] = {
        name: lambda run=run: run(seeds, steps)  # type: ignore[misc]
        for name, run in EXPERIMENTS.items()
    }
    experiments["cost"] = lambda: run_cost(seeds, rounds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads would wait for each other, since the networks are small
    try:
        with err.status("starting") as status:
            for number, (name, run) in enumerate(experiments.items(), start=1):
                status.update(f"{number} of {len(experiments)}: {name}")
                began = time.perf_counter()
                yield run()
                err.print(f"{number} of {len(experiments)}: {name}, {time.perf_counter() - began:.0f} s", markup=False)
    finally:
        torch.set_num_threads(threads)


def _write(folder: Path, results: Sequence[ExperimentResult], record: dict[str, Any]) -> None:
    """Write plots, tables and record, and the page last."""
    from normfold.display.pages.study_page import study_page
    from normfold.models.study.result import RULE

    for result in results:
        (folder / f"{result.name}.png").write_bytes(result.plot)
        (folder / f"{result.name}.csv").write_text(result.table.to_csv(), encoding="utf-8")
    (folder / "study.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(study_page(results, _setup(record), RULE), encoding="utf-8")


def _setup(record: dict[str, Any]) -> str:
    import torch

    quick = " With --quick: too few steps for reliable verdicts." if record["quick"] else ""
    return (
        "Scikit-learn’s handwritten digits, images of 8 × 8; the same networks with and without BatchNorm, with the "
        f"same initial weights and batches; {record['seeds']} seeds; plain stochastic gradient descent at a constant "
        f"learning rate. Measured in {record['seconds']:.0f} s on one thread of {platform.machine()}, with PyTorch "
        f"{torch.__version__}.{quick}"
    )


def _verdict_table(results: Sequence[ExperimentResult]) -> Table:
    table = Table("claim", "verdict", title="On these data", title_justify="left")
    for result in results:
        for check in result.checks:
            table.add_row(check.claim, check.verdict.value)
    return table
