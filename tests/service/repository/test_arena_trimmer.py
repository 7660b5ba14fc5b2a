"""Memory of ONNX Runtime's CPU arena after large batches."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from normfold.contract.manifest import DATATYPES, TensorSpec
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import RunError
from normfold.service.observability.access_log import LoggerAccessLog
from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository.background.arena_trimmer import ArenaTrimmer, _History
from normfold.service.repository.repository import Repository
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter

WIDE = 2**18
LARGE = 64
LEFT_BEHIND = LARGE * WIDE * 4


def wide(bundles: BundleWriter) -> Path:
    """A network whose intermediate values take a megabyte for each row."""
    return bundles.write(
        "wide",
        1,
        [
            helper.make_node("Mul", ["input", "ones"], ["wide"]),
            helper.make_node("Exp", ["wide"], ["exponential"]),
            helper.make_node("ReduceSum", ["exponential", "axes"], ["output"], keepdims=1),
        ],
        [TensorSpec(name="input", datatype="FP32", shape=(-1, 1))],
        [TensorSpec(name="output", datatype="FP32", shape=(-1, 1))],
        {"ones": np.ones((1, WIDE), np.float32), "axes": np.array([1], np.int64)},
    )


@pytest.fixture
def workers() -> Iterator[ThreadPool]:
    made = ThreadPool(threads=1)
    yield made
    made.close()


SHRINK = """
import json, sys
from pathlib import Path
import numpy as np
from normfold.service.runtime.session_factory import open_session

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def run(rows):
    return session.run({"input": np.zeros((rows, 1), np.float32)}, ["output"])[0].ravel().tolist()

session = open_session(Path(sys.argv[1]), "cpu", 1)
run(1)
before = rss()
run(int(sys.argv[2]))
run(1)
grown = rss() - before
session.shrink_arena()
print(json.dumps([grown, rss() - before, run(2)]))
"""
"""Prints the bytes that a large batch adds to the process, those left after shrinking, and what the network gives."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no Linux: the test reads /proc")
def test_arena_of_a_large_batch_is_shrunk_and_the_network_still_runs(bundles: BundleWriter) -> None:
    """In a process of its own: what other tests left in this one moves its memory too."""
    command = [sys.executable, "-c", SHRINK, str(wide(bundles) / "model.onnx"), str(LARGE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    grown, left, results = json.loads(ended.stdout)

    assert grown > LEFT_BEHIND / 2  # or there would be nothing to give back
    assert left < LEFT_BEHIND / 4
    assert results == [WIDE, WIDE]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_arena_is_shrunk_for_every_datatype_and_free_size(bundles: BundleWriter, datatype: str) -> None:
    open_session(bundles.identity(datatype) / "model.onnx", "cpu", 1).shrink_arena()


@pytest.mark.parametrize("shape", [(), (0,), (-1, 0), (3, -1)])
def test_arena_is_shrunk_whatever_the_shape(bundles: BundleWriter, shape: tuple[int, ...]) -> None:
    open_session(bundles.identity("FP32", "same", shape) / "model.onnx", "cpu", 1).shrink_arena()


def test_other_error_of_shrinking_is_raised(bundles: BundleWriter) -> None:
    session = open_session(bundles.digits() / "model.onnx", "cpu", 1)

    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError("planted")

    session._session = Broken()
    with pytest.raises(RunError):
        session.shrink_arena()


def test_arena_is_shrunk_after_loading_and_when_batches_become_half_as_large() -> None:
    history = _History(buckets=4)
    assert history.update([0, 0, 0, 0])  # what was tried while loading
    assert not history.update([0, 0, 0, 0])
    assert not history.update([5, 0, 0, 1])
    assert not history.update([5, 0, 0, 2])  # as large again
    assert history.update([6, 0, 0, 2])  # small ones alone
    assert not history.update([7, 0, 0, 2])
    assert history.update([7, 0, 0, 2])  # none at all
    assert not history.update([7, 0, 0, 2])


def test_trimmer_checks_every_model_of_the_repository(
    bundles: BundleWriter, workers: ThreadPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundles.digits()
    given_back: list[Session] = []
    right = Session.shrink_arena

    def shrink_arena(session: Session) -> None:
        given_back.append(session)
        right(session)

    monkeypatch.setattr(Session, "shrink_arena", shrink_arena)

    async def test() -> None:
        repository = Repository(
            Settings(repository=bundles.root, provider="cpu"), workers, Telemetry(LoggerAccessLog())
        )
        await repository.load()
        keeper = ArenaTrimmer(repository, workers)
        model = repository.find("digits")

        async def infer(rows: int) -> None:
            await model.infer({"input": np.zeros((rows, 1, 4, 4), np.float32)}, ["logits"])

        assert [await keeper.check(), await keeper.check()] == [1, 0]
        await infer(4)
        assert await keeper.check() == 0
        await infer(1)
        assert await keeper.check() == 1
        assert given_back == [model.session] * 2
        assert not model.in_use
        monkeypatch.setattr(Session, "shrink_arena", lambda _: 1 / 0)
        await infer(4)
        assert [await keeper.check(), await keeper.check()] == [0, 0]  # it says so, and goes on
        await infer(1)

    asyncio.run(test())
    assert "The arena of digits/1 could not be shrunk." in caplog.text


def test_trimmer_skips_models_on_other_providers(
    bundles: BundleWriter, workers: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    monkeypatch.setattr(Session, "provider", "openvino")

    async def test() -> None:
        repository = Repository(
            Settings(repository=bundles.root, provider="cpu"), workers, Telemetry(LoggerAccessLog())
        )
        await repository.load()
        assert await ArenaTrimmer(repository, workers).check() == 0

    asyncio.run(test())
