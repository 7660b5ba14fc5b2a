"""Fixtures that several packages' tests use, the order of tests, and the report of skipped and of slow ones.

What a fixture needs is imported only where a test asks for it, so that a run of a few tests begins at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.bundles import BundleWriter
    from tests.support.service import Service, StartService

MAY_BE_SKIPPED = ("no NVIDIA GPU", "no OpenVINO")
"""Beginnings of the reasons for which `--fail-on-skip` lets tests be skipped."""

SLOW_S = 0.2
"""Seconds from which a test should have the marker `slow`; ten times as many are named at the end of a run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fail-on-skip`."""
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help=f"fail if a test is skipped for anything but: {', '.join(MAY_BE_SKIPPED)}",
    )


def skips_of(reporter: pytest.TerminalReporter) -> Counter[str]:
    """Return how many tests were skipped for each reason."""
    reasons: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    return reasons


def unmarked_slow_tests(reporter: pytest.TerminalReporter) -> list[tuple[float, str]]:
    """Return seconds and name of the tests without the marker `slow` that took more than ten times SLOW_S."""
    passed = [report for report in reporter.stats.get("passed", ()) if report.when == "call"]
    slow = [(report.duration, report.nodeid) for report in passed if "slow" not in report.keywords]
    return sorted((entry for entry in slow if entry[0] > 10 * SLOW_S), reverse=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were skipped, by what is missing, and which are slow and not marked so."""
    if skips := skips_of(terminalreporter):
        terminalreporter.section("skipped tests")
        for reason, count in skips.most_common():
            terminalreporter.line(f"{count} {'tests' if count > 1 else 'test'}: {reason}")
    if slow := unmarked_slow_tests(terminalreporter):
        terminalreporter.section(f"tests over {10 * SLOW_S:g} s without the marker 'slow'")
        for seconds, name in slow:
            terminalreporter.line(f"{seconds:.1f} s: {name}")


class Machine:
    """The right to run a test: several processes have it at once, or one of them alone.

    Whoever waits for it holds `queue`, so that a process that runs test after test does not keep others waiting.
    """

    def __init__(self, folder: Path) -> None:
        self._queue, self._tests = ((folder / name).open("w") for name in ("queue.lock", "tests.lock"))
        self._is_taken = False

    def take(self, alone: bool) -> None:
        """Wait until no other process runs a test, or, unless `alone`, until none runs one alone."""
        if self._is_taken:  # since the test before; to wait would be to wait for those that wait for this process
            return
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        fcntl.flock(self._tests, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        self._is_taken = True

    def give_back(self) -> None:
        """Let others have it."""
        fcntl.flock(self._tests, fcntl.LOCK_UN)
        self._is_taken = False

    def close(self) -> None:
        """Close the files."""
        self._queue.close()
        self._tests.close()


MACHINE = pytest.StashKey[Machine]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Where several processes run tests, share the machine: one thread for each session of ONNX Runtime by default.

    Its own default is one for each processor, and those that wait take half of the processor time.
    """
    if getattr(config, "workerinput", {}).get("workercount", 1) == 1:
        return
    import onnxruntime

    class OneThread(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    onnxruntime.SessionOptions = OneThread
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    config.stash[MACHINE] = Machine(factory.getbasetemp().parent)  # of all processes of a run
    config.add_cleanup(config.stash[MACHINE].close)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Run a test with the marker `alone`, and its fixtures, while no other process runs a test."""
    machine = item.config.stash.get(MACHINE, None)
    if machine is None:
        return (yield)
    alone, next_alone = (each is not None and each.get_closest_marker("alone") is not None for each in (item, nextitem))
    machine.take(alone)
    try:
        return (yield)
    finally:
        if not (alone and next_alone):
            machine.give_back()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run with `--fail-on-skip` in which a test was skipped that may not be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--fail-on-skip") or reporter is None:
        return
    if session.exitstatus == pytest.ExitCode.OK and not all(
        reason.startswith(MAY_BE_SKIPPED) for reason in skips_of(reporter)
    ):
        reporter.line("Some tests were skipped that may not be (--fail-on-skip); see the end.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_finish() -> None:
    """Make each test cheaper: what collecting made is not searched for garbage again, and torch's loggers propagate.

    The first is 3 % of a quick run, the second 5 %: pytest adds its handlers, six times a test, to every logger that
    does not propagate, and torch has 42 of them.
    """
    gc.freeze()
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the service's settings out of the environment."""
    for name in list(os.environ):
        if name.upper().startswith("NORMFOLD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def bundles(tmp_path: Path) -> BundleWriter:
    """A writer into an empty repository."""
    from tests.support.bundles import BundleWriter

    root = tmp_path / "repository"
    root.mkdir()
    return BundleWriter(root)


@pytest.fixture
def identity_repository(tmp_path: Path) -> Path:
    """A repository with one model, `same`, which returns its input."""
    from tests.support.bundles import BundleWriter

    BundleWriter(tmp_path).identity("FP32", "same", (-1, 2))
    return tmp_path


@pytest.fixture
def start() -> Iterator[StartService]:
    """Return a function that serves a repository until the test ends, as a rule with every bundle loaded."""
    from normfold.service.app import create_app
    from normfold.service.settings import Settings
    from tests.support.service import serve_app

    with contextlib.ExitStack() as stack:

        def start_service(root: Path, wait: bool = True, **settings: Any) -> Service:
            chosen = Settings(repository=root, **{"provider": "cpu", **settings})
            service = stack.enter_context(serve_app(create_app(chosen), chosen))
            if wait:
                service.wait_until_loaded()
            return service

        yield start_service
