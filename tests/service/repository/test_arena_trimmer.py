"""Memory that large batches left behind."""

from __future__ import annotations

import asyncio
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
from normfold.service.observability.access_log import LogLines
from normfold.service.observability.request_trace import Telemetry
from normfold.service.repository.arena_trimmer import ArenaTrimmer, _Record
from normfold.service.repository.repository import Repository
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter

WIDE = 2**18
LARGE = 64
LEFT_BEHIND = LARGE * WIDE * 4


def rss() -> int:
    """Return this process's resident bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


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


@pytest.mark.skipif(sys.platform != "linux", reason="no Linux: the test reads /proc")
def test_memory_of_a_large_batch_is_given_back_and_the_network_works_on(bundles: BundleWriter) -> None:
    session = open_session(wide(bundles) / "model.onnx", "cpu", 1)

    def run(rows: int) -> np.ndarray:
        return session.run({"input": np.zeros((rows, 1), np.float32)}, ["output"])[0]

    run(1)
    before = rss()
    run(LARGE)
    run(1)
    assert rss() - before > LEFT_BEHIND / 2  # or there would be nothing to give back
    session.give_back_memory()
    assert rss() - before < LEFT_BEHIND / 4
    assert run(2).ravel().tolist() == [WIDE, WIDE]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_and_free_size_can_give_back(bundles: BundleWriter, datatype: str) -> None:
    open_session(bundles.identity(datatype) / "model.onnx", "cpu", 1).give_back_memory()


def test_another_failure_is_told(bundles: BundleWriter) -> None:
    session = open_session(bundles.digits() / "model.onnx", "cpu", 1)

    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError("planted")

    session._session = Broken()
    with pytest.raises(RunError):
        session.give_back_memory()


def test_memory_is_given_back_after_loading_and_when_batches_become_half_as_large() -> None:
    record = _Record(buckets=4)
    assert record.note([0, 0, 0, 0])  # what was tried while loading
    assert not record.note([0, 0, 0, 0])
    assert not record.note([5, 0, 0, 1])
    assert not record.note([5, 0, 0, 2])  # as large again
    assert record.note([6, 0, 0, 2])  # small ones alone
    assert not record.note([7, 0, 0, 2])
    assert record.note([7, 0, 0, 2])  # none at all
    assert not record.note([7, 0, 0, 2])


def test_models_of_the_repository_are_looked_at(
    bundles: BundleWriter, workers: ThreadPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundles.digits()
    given_back: list[Session] = []
    right = Session.give_back_memory

    def give_back(session: Session) -> None:
        given_back.append(session)
        right(session)

    monkeypatch.setattr(Session, "give_back_memory", give_back)

    async def test() -> None:
        repository = Repository(Settings(repository=bundles.root, provider="cpu"), workers, Telemetry(LogLines()))
        await repository.load()
        keeper = ArenaTrimmer(repository, workers)
        model = repository.find("digits")

        async def infer(rows: int) -> None:
            await model.infer({"input": np.zeros((rows, 1, 4, 4), np.float32)}, ["logits"])

        assert [await keeper.look(), await keeper.look()] == [1, 0]
        await infer(4)
        assert await keeper.look() == 0
        await infer(1)
        assert await keeper.look() == 1
        assert given_back == [model.session] * 2
        assert not model.in_use
        monkeypatch.setattr(Session, "give_back_memory", lambda _: 1 / 0)
        await infer(4)
        assert [await keeper.look(), await keeper.look()] == [0, 0]  # it says so, and goes on
        await infer(1)

    asyncio.run(test())
    assert "digits/1 could not give memory back." in caplog.text


def test_what_runs_elsewhere_is_left_alone(
    bundles: BundleWriter, workers: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    monkeypatch.setattr(Session, "provider", "openvino")

    async def test() -> None:
        repository = Repository(Settings(repository=bundles.root, provider="cpu"), workers, Telemetry(LogLines()))
        await repository.load()
        assert await ArenaTrimmer(repository, workers).look() == 0

    asyncio.run(test())
