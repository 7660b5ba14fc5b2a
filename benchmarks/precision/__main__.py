"""int8 and float16: what they keep of a network's answers, and what they save: `make bench-precision`.

    digits      the project's networks, trained on digits, in int8: with data, from statistics alone, and with channels
                spread over three decades; means over the seeds
    saturation  layers made to overflow sums of 16 bits, and faults planted in a right file
    float16     the digits networks and the larger ones in float16, as a GPU computes it
    speed       ResNet-18, ResNet-50 and MobileNetV2 at 224 × 224 in int8: time, size and signal to noise beside other
                quantisers; one row, one thread, interleaved rounds

Trained networks are kept in build/precision. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine_line
from benchmarks.precision import digits, float16, saturation, speed
from benchmarks.precision.bars import Bar, table_of_bars
from benchmarks.precision.digits import Figures
from benchmarks.precision.saturation import Adversarial
from benchmarks.precision.speed import Speed
from normfold.contract.precision.processor import processor_name

PACKAGES = ("onnx", "onnxruntime", "onnxsim", "torch", "numpy")
PARTS = ("digits", "saturation", "float16", "speed")


def main() -> None:
    """Measure, print the tables and the bars; leave with 1 if a bar is missed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # onnxruntime.quantization advises each caller
    arguments = parse_arguments()
    console = Console(width=132)
    console.print(machine_line(PACKAGES), processor_name(), soft_wrap=True)
    bars: list[Bar] = []
    if "digits" in arguments.parts:
        figures = list(digits.measure_digits(arguments.networks, arguments.seeds))
        console.print(table_of_digits(figures))
        bars += digits.bars(figures)
    if "saturation" in arguments.parts:
        layers = list(saturation.measure_adversarial())
        console.print(table_of_layers(layers))
        bars += [*saturation.bars_of_adversarial(layers), *saturation.planted_faults()]
    if "float16" in arguments.parts:
        figures_of_float16 = list(float16.measure_digits(arguments.networks, arguments.seeds))
        bars += float16.bars([*figures_of_float16, *float16.measure_large(arguments.large)])
        bars.append(float16.bar_of_overflow())
    if "speed" in arguments.parts:
        speeds = [each for name in arguments.large for each in speed.measure_speed(name, arguments.rounds)]
        console.print(table_of_speeds(speeds))
        bars += speed.bars(speeds)
    console.print(table_of_bars(bars))
    missed = sum(not bar.is_met for bar in bars)
    console.print(f"{len(bars) - missed} of {len(bars)} bars are met.")
    raise SystemExit(1 if missed else 0)


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


def table_of_layers(layers: list[Adversarial]) -> Table:
    """Return what becomes of each adversarial layer."""
    columns = (
        "layer",
        "quantised by",
        "largest sum",
        "steps lost in 16 bits",
        "kernels from float32, steps",
        "SQNR dB",
    )
    table = Table(*columns, title="Layers made to overflow sums of 16 bits")
    for each in layers:
        table.add_row(
            *(each.layer, each.tool, str(each.pair_sum), f"{each.lost:.1f}", f"{each.steps:.1f}"),
            f"{each.sqnr_db:.1f}",
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
