"""`normfold repair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from normfold.cli.option_names import in_options
from normfold.cli.options.overwrite import FORCE, ask_before_overwriting
from normfold.display.terminal.console import err, out, print_json, warn


def repair(
    source: Annotated[Path, typer.Argument(help="The model, from any exporter.", metavar="IN.onnx")],
    target: Annotated[Path, typer.Argument(help="Path of the repaired model to write.", metavar="OUT.onnx")],
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Unlabelled samples to take new statistics from: an .npz (raw inputs 'x', or tensors named like the "
            "network's inputs), a folder of images or a .csv with a card. The stored statistics if not given.",
            metavar="FILE|DIR",
        ),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="The source card, if not IN.json beside the model.", metavar="FILE")
    ] = None,
    tensors: Annotated[
        bool | None,
        typer.Option(
            "--tensors/--raw",
            help="If the names of its arrays are ambiguous: the .npz holds tensors as the network takes them, or raw "
            "inputs that are standardised first.",
        ),
    ] = None,
    force: Annotated[bool, FORCE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put BatchNormalization nodes that normalise by the batch into inference mode.

    They do so in training mode, or if mean and variance are computed from the batch, as exporters write layers without
    running statistics. They get the statistics in the file, or those of samples: at least 32, whose first half must be
    like their second; otherwise nothing is written and the exit code is 1. The outputs change.

    Example: `normfold repair exported.onnx repaired.onnx`
    """
    from normfold import repair as repair_model

    ask_before_overwriting(force, target, read=source)
    with err.status("starting") as status:
        result = repair_model(
            source,
            target,
            samples=samples,
            card=card,
            as_tensors=tensors,
            force=force,
            progress=status.update,
        )
    warnings = [in_options(sentence) for sentence in result.warnings]
    for sentence in warnings:
        warn(sentence)
    if as_json:
        print_json(
            {
                "target": str(target),
                "nodes": [node.to_dict() for node in result.nodes],
                "removed_outputs": list(result.removed_outputs),
                "warnings": warnings,
            }
        )
        return
    if result.nodes:
        table = Table("BatchNormalization", "normalised by", "statistics now", box=None, pad_edge=False)
        for node in result.nodes:
            table.add_row(Text(node.node, overflow="fold"), node.cause.value, node.statistics.value)
        out.print(table)
    count = len(result.nodes)
    nothing = " No BatchNormalization normalises by the batch." if not count else ""
    out.print(
        f"{count} BatchNormalization node{'s' * (count != 1)} repaired in {str(target)!r}.{nothing}",
        markup=False,
        soft_wrap=True,
    )
