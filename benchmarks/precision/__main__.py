"""Fewer bits: what int8 keeps of a network's answers, and what it saves: `make bench-precision`.

    digits    the project's networks, trained on digits: with data, from statistics alone, and with channels spread over
              three decades; means over the seeds
    speed     ResNet-18, ResNet-50 and MobileNetV2 at 224 × 224: time, size and signal to noise beside ONNX Runtime's
              own quantiser; one row, one thread, interleaved rounds

Trained networks are kept in build/precision. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine_line
from benchmarks.precision import digits, speed
from benchmarks.precision.digits import Figures
from benchmarks.precision.speed import Speed

PACKAGES = ("onnx", "onnxruntime", "torch", "numpy")
PARTS = ("digits", "speed")


def main() -> None:
    """Measure, print the tables; leave with 1 if a bar is missed."""
    warnings.simplefilter("ignore")
    arguments = parse_arguments()
    console = Console(width=132)
    console.print(machine_line(PACKAGES), soft_wrap=True)
    faults: list[str] = []
    if "digits" in arguments.parts:
        figures = list(digits.measure_digits(arguments.networks, arguments.seeds))
        console.print(table_of_digits(figures))
        faults += digits.faults(figures)
    if "speed" in arguments.parts:
        speeds = [each for name in arguments.large for each in speed.measure_speed(name, arguments.rounds)]
        console.print(table_of_speeds(speeds))
        faults += speed.faults(speeds)
    for fault in faults:
        console.print(fault, style="red", soft_wrap=True)
    raise SystemExit(1 if faults else 0)


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make bench-precision", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--networks", nargs="+", choices=digits.NETWORKS, default=list(digits.NETWORKS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), metavar="SEED")
    parser.add_argument("--large", nargs="+", choices=speed.MAX_RATIO, default=list(speed.MAX_RATIO), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: %(default)s)")
    return parser.parse_args()


def table_of_digits(figures: list[Figures]) -> Table:
    """Return the means over the seeds of each network, by either way."""
    columns = ("network", "channels", "from", "seeds", "SQNR dB", "lowest", "float32", "drop", "agreement", "equalised")
    table = Table(*columns, title="Digits, int8, all of ONNX Runtime's optimisations")
    for key in dict.fromkeys((each.network, each.spread, each.way) for each in figures):
        group = [each for each in figures if (each.network, each.spread, each.way) == key]
        mean = {
            name: float(np.mean([getattr(each, name) for each in group]))
            for name in ("sqnr_db", "accuracy", "drop", "agreement", "equalised")
        }
        table.add_row(
            *(key[0], "spread" if key[1] else "as trained", key[2], str(len(group)), f"{mean['sqnr_db']:.1f}"),
            *(f"{min(each.sqnr_db for each in group):.1f}", f"{mean['accuracy']:.4f}", f"{mean['drop']:+.4f}"),
            *(f"{mean['agreement']:.4f}", f"{mean['equalised']:.1f}"),
        )
    return table


def table_of_speeds(speeds: list[Speed]) -> Table:
    """Return the figures of each network and form."""
    columns = ("network", "form", "samples", "time / float32", "size / float32", "SQNR dB", "quantised in rows' time")
    table = Table(*columns, title="224 × 224, random weights, one row, one thread")
    for each in speeds:
        table.add_row(
            *(each.network, each.form, str(each.samples), str(each.ratio), f"{each.size:.3f}", f"{each.sqnr_db:.1f}"),
            f"{each.rows_of_quantising:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
