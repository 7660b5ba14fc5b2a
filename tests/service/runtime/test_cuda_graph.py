"""A CUDA graph of a session: which runs replay it, and what they return. Its memory is the host's here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import ref

import numpy as np
import onnxruntime
import pytest

from normfold.service.errors import RunError
from normfold.service.runtime import cuda_graph
from normfold.service.runtime.cuda_graph import CudaGraph
from normfold.service.runtime.run_options import Cancel
from normfold.service.runtime.session import Array, Session
from normfold.service.runtime.session_factory import open_session
from tests.support.bundles import BundleWriter
from tests.support.service import PretendedSession


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of all replays."""
    rows: list[int] = []
    right = CudaGraph.run

    def run(graph: CudaGraph, *arguments: Any) -> list[Array]:
        rows.append(graph.rows)
        return right(graph, *arguments)

    monkeypatch.setattr(CudaGraph, "run", run)
    return rows


@pytest.fixture
def session(bundles: BundleWriter, pretend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Session:
    """The digits, with a graph for two rows."""
    monkeypatch.setattr(cuda_graph, "DEVICE", "cpu")
    pretend()
    opened = open_session(bundles.digits() / "model.onnx", "cuda", 1)
    opened.use_graph(opened.capture_graph({"input": np.zeros((2, 1, 4, 4), np.float32)}))
    return opened


def run(session: Session, rows: int, value: float, cancel: Cancel | None = None) -> Array:
    return session.run({"input": np.full((rows, 1, 4, 4), value, np.float32)}, ["logits"], cancel)[0]


def test_graph_replays_inputs_of_its_rows_alone(session: Session, replays: list[int]) -> None:
    for rows in (1, 2, 3, 2):
        np.testing.assert_array_equal(run(session, rows, rows), np.full((rows, 3), 4 * rows))
    assert replays == [2, 2]


def test_graph_does_not_fit_inputs_that_differ_in_another_size(session: Session, replays: list[int]) -> None:
    with pytest.raises(Exception, match="network rejects these tensors"):
        session.run({"input": np.zeros((2, 1, 4, 5), np.float32)}, ["logits"])
    assert replays == []


def test_results_of_a_replay_outlive_the_next_one(session: Session) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda value: run(session, 2, value), range(50)))
    for value, result in enumerate(results):
        np.testing.assert_array_equal(result, np.full((2, 3), 4 * value))


def test_graph_takes_rows_that_are_not_contiguous(session: Session, replays: list[int]) -> None:
    pictures = np.arange(64, dtype=np.float32).reshape(4, 1, 4, 4)[::2]
    expected = session.run({"input": pictures[:1]}, ["logits"])[0]
    np.testing.assert_array_equal(session.run({"input": pictures}, ["logits"])[0][:1], expected)
    assert replays == [2]


def test_cancelled_run_is_not_replayed(session: Session, replays: list[int]) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(RunError) as raised:
        run(session, 2, 1.0, cancel)
    assert "terminate" in raised.value.detail
    assert replays == []
    np.testing.assert_array_equal(run(session, 2, 1.0, Cancel()), np.full((2, 3), 4))


def test_failing_replay_is_an_error_of_the_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA failure 900")

    monkeypatch.setattr(onnxruntime.OrtValue, "update_inplace", fail)
    with pytest.raises(RunError) as raised:
        run(session, 2, 1.0)
    assert raised.value.detail == "CUDA failure 900"


def test_graph_releases_the_session_of_its_batch_size(
    session: Session, replays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[ref[PretendedSession]] = []
    monkeypatch.setattr(PretendedSession, "__init__", _noting(opened))
    session.open_per_batch_size((1, 2, 4))
    session.use_graph(session.capture_graph({"input": np.zeros((1, 1, 4, 4), np.float32)}))
    alive = [one() is not None for one in opened]
    assert alive == [False, True, True]  # of one row, of two rows, of the graph
    np.testing.assert_array_equal(run(session, 1, 1.0), np.full((1, 3), 4))
    assert replays == [1]


def _noting(opened: list[ref[PretendedSession]]) -> Callable[..., None]:
    right = PretendedSession.__init__

    def note(session: PretendedSession, *arguments: Any) -> None:
        right(session, *arguments)
        opened.append(ref(session))

    return note
