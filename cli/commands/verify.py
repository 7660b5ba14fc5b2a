"""`normfold verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normfold.display.terminal.console import err, fail, out, print_json
from normfold.display.terminal.fold import verification_record, verification_table


def verify(
    original: Annotated[Path, typer.Argument(help="The reference model.", metavar="A.onnx")],
    folded: Annotated[Path, typer.Argument(help="The model to verify.", metavar="B.onnx")],
    inputs: Annotated[Path | None, typer.Option(help="Inputs: .npz, an array for each input.", metavar="FILE")] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            help="Source card, if B takes 8-bit pixels (--input uint8); a card of {} if A standardises them itself.",
            metavar="FILE",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=4, help="Number of random inputs.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two ONNX models on the same inputs, relative to the rounding noise of the first.

    Noise is the change of A's outputs when its inputs move by one unit in the last place (or its weights, if the first
    rounding would remove that change). B may differ by 8 times the noise, plus 1e-6 of the output's range. If it
    differs by more, the exit code is 1.

    Example: `normfold verify resnet50.onnx folded.onnx`
    """
    from normfold import verify as compare

    with err.status("starting") as status:
        result = compare(original, folded, inputs=inputs, seeds=seeds, card=card, progress=status.update)
    if as_json:
        print_json(verification_record(result.verification))
    else:
        out.print(verification_table(result.verification))
    if not result.passes:
        fail(f"{str(folded)!r} does not reproduce {str(original)!r}.")
        raise typer.Exit(1)
