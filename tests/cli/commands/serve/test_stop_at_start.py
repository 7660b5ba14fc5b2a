"""`normfold serve`: SIGTERM and SIGINT end it with exit code 0 however early they come, and none is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command import environment_without_settings

START = "from normfold.cli.entry import main; main()"

LOST = f"""
import os, signal, sys, weakref
from importlib.abc import MetaPathFinder

class Referent:
    pass

class Finder(MetaPathFinder):
    is_sent = False

    def find_spec(self, name, path, target=None):
        if name == "PLACE" and not self.is_sent:
            self.is_sent = True
            referent = Referent()
            # Python ignores what is raised here, and so it does in the callbacks of the import system.
            reference = weakref.ref(referent, lambda _: os.kill(os.getpid(), signal.SIGNAL))
            del referent

sys.meta_path.insert(0, Finder())
{START}
"""
"""The program; it gets a signal when it imports a module, and the exception of its handler is lost."""


def start(script: str, repository: Path, *options: str) -> subprocess.Popen[str]:
    """Start the command from a shell's point of view: SIGINT is not ignored."""
    return subprocess.Popen(
        [sys.executable, "-c", script, "serve", "--repository", str(repository), "--port", "0", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_settings(),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("normfold.cli.commands.serve", signal.SIGINT),
        ("normfold.service.http.server", signal.SIGTERM),
        ("normfold.service.app", signal.SIGINT),
        ("normfold.service.inference.predict", signal.SIGTERM),
        ("uvicorn.lifespan.on", signal.SIGINT),
    ],
)
def test_signal_whose_exception_is_lost_ends_the_start(
    identity_repository: Path, place: str, number: signal.Signals
) -> None:
    process = start(LOST.replace("PLACE", place).replace("SIGNAL", number.name), identity_repository)
    try:
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, log


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_signal_at_any_moment_of_the_start_ends_it(identity_repository: Path, workers: int) -> None:
    chosen = random.Random(workers)
    for number in (signal.SIGINT, signal.SIGTERM) * 2:
        process = start(START, identity_repository, "--workers", str(workers))
        try:
            delay_s = chosen.uniform(0.0, 4.0)
            time.sleep(delay_s)  # the moment is what is tried: there is no event to wait for
            process.send_signal(number)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        # -number: before its first line of Python; 1: in Python's own start, which has a traceback for SIGINT
        assert process.returncode in (0, -number), (delay_s, number, log)
