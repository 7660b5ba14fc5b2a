"""Fuzz the request decoder for a given time.

    python -m benchmarks.fuzz_requests --seconds 600

The properties are those of tests/service/codec/test_request_fuzz.py, each checked with a thousand new bodies by turns
until the time is up. The first body that violates one is minimised and printed, and ends the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from importlib import import_module

from benchmarks.machine import machine_line

os.environ["HYPOTHESIS_PROFILE"] = "fuzz"  # before the properties are imported: it sets the number of bodies


def main() -> None:
    """Check the properties until the time is up, and print the numbers of bodies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="duration (default: %(default)s)")
    seconds: float = parser.parse_args().seconds
    fuzz = import_module("tests.service.codec.test_request_fuzz")
    begun, readings, seen = time.monotonic(), Counter[str](), fuzz.SEEN
    while time.monotonic() < begun + seconds:
        for check in fuzz.PROPERTIES:
            before = seen.total()
            check()
            readings[check.__name__] += seen.total() - before
            if time.monotonic() >= begun + seconds:
                break
        print(f"{seen.total():,} bodies read", file=sys.stderr, flush=True)
    print(machine_line(["hypothesis", "orjson", "pysimdjson", "numpy"]))
    for name, number in readings.items():
        print(f"{name:<64} {number:>12,}")
    print(
        f"{seen.total():,} bodies read in {time.monotonic() - begun:.0f} s, "
        f"{seen['decoded']:,} decoded and {seen['rejected']:,} rejected. Every property held."
    )


if __name__ == "__main__":
    main()
