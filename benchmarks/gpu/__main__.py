"""Networks and the service on an NVIDIA GPU: `make bench-gpu`. Needs the extra `gpu` in place of `cpu`.

    fold     milliseconds per run of the unfolded and the folded network, by batch size, from and to host memory
    shapes   the same with another batch size in every run, in one session, and in one session for each batch size
    serve    rows per second of the service (binary, one row per request), compared with a bare loop of session.run

With --precision instead: ResNet-50 and MobileNetV2 in float32 and float16, beside torch (`benchmarks.gpu.precision`).
With --device cpu either runs on a small network without a GPU, to test the code; its times say nothing.

Sessions are opened as the service opens them. Rounds are interleaved; medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.gpu.machine import find_missing, gpu_line
from benchmarks.gpu.precision import print_precisions, seconds_of
from benchmarks.gpu.service import serve
from benchmarks.machine import machine_line
from benchmarks.progress import show_progress
from benchmarks.serve.networks import MAKERS
from normfold.contract.errors import NormfoldError
from normfold.export.bundle.export import export_bundle
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "numpy")
NETWORKS = {"cuda": "resnet18", "cpu": "digits"}
"""By device."""
ROWS = (1, 8, 32)


def main() -> None:
    """Measure and print."""
    arguments = _parse()
    device = arguments.device
    gpu = gpu_line()
    if device == "cuda" and (missing := find_missing(gpu, onnxruntime.get_available_providers())):
        raise SystemExit(missing)
    used = gpu if device == "cuda" else "no GPU is used, and the times say nothing"
    print(f"{used}; {machine_line(PACKAGES)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.precision:
            print_precisions(folder, arguments.rounds, device, arguments.minutes)
            return
        provider = arguments.provider or device
        options = dict(option.split("=", 1) for option in arguments.option)
        open_it = partial(open_session, provider=provider, intra_op_threads=1, options=options)
        network = NETWORKS[device]
        show_progress(f"making {network}")
        exported = MAKERS[network](folder)
        export_bundle(exported, folder / "repository", network)
        folded = folder / "repository" / network / "1" / "model.onnx"
        try:
            sessions = {"as exported": open_it(exported), "folded": open_it(folded)}
        except NormfoldError as error:
            raise SystemExit(str(error)) from None
        bare = compare(sessions, arguments.rounds)
        change_shapes([open_it(folded) for _ in ROWS], arguments.rounds)
        settings = {"PROVIDER": provider, "WORKERS": str(arguments.workers)}
        if options:
            settings["PROVIDER_OPTIONS"] = json.dumps(options)
        serve(folder / "repository", network, settings, arguments.seconds, bare)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gpu")
    parser.add_argument("--device", choices=sorted(NETWORKS), default="cuda", help="(default: %(default)s)")
    parser.add_argument("--provider", help="of ONNX Runtime (default: the device's)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the provider")
    parser.add_argument("--workers", type=int, default=1, help="of the service (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the median counts")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load (default: %(default)s)")
    parser.add_argument("--precision", action="store_true", help="float32 and float16, beside torch")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which --precision begins nothing more")
    return parser.parse_args()


def compare(sessions: Mapping[str, Session], rounds: int) -> dict[int, float]:
    """Print the milliseconds per run of both sessions; return the rows per second of the second, by batch size."""
    for name, session in sessions.items():
        print(f"{name}: {session.placement}")
    print(f"\n{'rows':>5} {'as exported':>12} {'folded':>9} {'ratio':>7}   (ms a run)")
    rates = {}
    for rows in ROWS:
        runs = {name: run_of(session, rows) for name, session in sessions.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seconds[name].append(seconds_of(run))
        before, after = (statistics.median(times) for times in seconds.values())
        print(f"{rows:5} {1e3 * before:12.3f} {1e3 * after:9.3f} {after / before:7.3f}")
        rates[rows] = rows / after
    return rates


def change_shapes(sessions: Sequence[Session], rounds: int) -> None:
    """Print the milliseconds per run with changing batch sizes, in one session, and in one session for each."""
    in_one = partial(run_all, [run_of(sessions[0], rows) for rows in ROWS])
    in_each = partial(run_all, [run_of(session, rows) for session, rows in zip(sessions, ROWS, strict=True)])
    seconds = [[seconds_of(run) / len(ROWS) for run in (in_one, in_each)] for _ in range(rounds)]
    one, each = (statistics.median(times) for times in zip(*seconds, strict=True))
    rows = ", ".join(map(str, ROWS))
    print(f"\n{rows} rows by turns: {1e3 * one:.3f} ms a run in one session, {1e3 * each:.3f} in one each")


def run_all(runs: Sequence[Callable[[], Any]]) -> None:
    """Call each run once."""
    for run in runs:
        run()


def run_of(session: Session, rows: int) -> Callable[[], Any]:
    """Return a function that runs the session on a batch, after warm-up runs."""
    ((name, (_, shape)),), outputs = session.inputs.items(), list(session.outputs)
    images = np.random.default_rng(0).standard_normal((rows, *shape[1:])).astype(np.float32)
    for _ in range(5):
        session.run({name: images}, outputs)
    return lambda: session.run({name: images}, outputs)


if __name__ == "__main__":
    main()
