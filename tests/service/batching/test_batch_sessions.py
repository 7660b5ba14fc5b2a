"""A session for each batch size where a change of shape costs time, as on CUDA; CUDA is simulated here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from normfold.service.repository import warmup
from tests.support.bundles import BundleWriter
from tests.support.service import TENSORRT, PretendedSession, StartService


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Rows of the runs of each pretended session, by its place in the order in which they were opened."""
    places: dict[int, int] = {}
    seen: dict[int, list[int]] = {}

    def run(session: Any, names: Any, tensors: Any, options: Any) -> Any:
        place = places.setdefault(id(session), len(places))
        seen.setdefault(place, []).append(len(tensors["input"]))
        return session._real.run(names, tensors, options)

    monkeypatch.setattr(PretendedSession, "run", run, raising=False)
    return seen


@pytest.fixture
def serve(bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that serves batches of 1, 2, 4 and 6, and gives the client."""

    def serve_digits(penalty: bool = True, provider: str = "cuda") -> Any:
        monkeypatch.setattr(warmup, "has_shape_switch_penalty", lambda *_: penalty)
        bundles.digits()
        return start(bundles.root, provider=provider, max_batch_size=6).client

    return serve_digits


def ask_for_all_sizes(client: Any) -> None:
    for rows in (1, 6, 3, 2, 4, 5, 1, 13):
        pictures = {"name": "input", "datatype": "FP32", "shape": [rows, 1, 4, 4], "data": [1.0] * 16 * rows}
        answer = client.post("/v2/models/digits/infer", json={"inputs": [pictures]})
        assert answer.json()["outputs"][0]["data"] == [4.0] * 3 * rows


def test_each_batch_size_has_its_own_warm_session(
    serve: Any, pretend: Callable[..., list[Any]], runs: dict[int, list[int]]
) -> None:
    asked = pretend()
    client = serve()
    assert len(asked) == 4
    assert [runs[place] for place in (1, 2, 3)] == [[1], [2], [4]]
    runs[0].clear()  # while the model was loaded, the first session ran all sizes
    ask_for_all_sizes(client)
    assert {place: set(seen) for place, seen in runs.items()} == {0: {6}, 1: {1}, 2: {2}, 3: {4}}


@pytest.mark.parametrize(("penalty", "provider"), [(False, "cuda"), (True, "tensorrt"), (True, "cpu")])
def test_one_session_runs_all_sizes_without_a_shape_switch_penalty(
    serve: Any, pretend: Callable[..., list[Any]], penalty: bool, provider: str
) -> None:
    asked = pretend(nodes={TENSORRT: 2} if provider == "tensorrt" else None)
    ask_for_all_sizes(serve(penalty, provider))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"max_sessions": 3}, "CUDA out of memory"),
        ({"max_sessions": 3, "on_cpu": False}, "CUDA out of memory"),
        ({"max_on_provider": 3}, "The provider 'cuda' was requested, but ONNX Runtime fell back to the CPU"),
    ],
)
def test_one_session_runs_all_sizes_if_another_cannot_be_opened(
    serve: Any,
    pretend: Callable[..., list[Any]],
    runs: dict[int, list[int]],
    caplog: pytest.LogCaptureFixture,
    fault: dict[str, Any],
    reason: str,
) -> None:
    pretend(**fault)
    client = serve()
    check_that_one_runs_all(client, runs, caplog, reason)


def test_one_session_runs_all_sizes_if_another_cannot_run(
    serve: Any,
    pretend: Callable[..., list[Any]],
    runs: dict[int, list[int]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = PretendedSession.run  # type: ignore[attr-defined]

    def run(session: Any, *arguments: Any) -> Any:
        results = record(session, *arguments)
        if runs.get(2) == [2]:
            runs[2].append(0)
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")
        return results

    monkeypatch.setattr(PretendedSession, "run", run)
    pretend()
    client = serve()
    check_that_one_runs_all(client, runs, caplog, "Failed to allocate memory for requested buffer of size 9")


def check_that_one_runs_all(
    client: Any, runs: dict[int, list[int]], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    for seen in runs.values():
        seen.clear()
    ask_for_all_sizes(client)
    assert {place for place, seen in runs.items() if seen} == {0}
    assert any(
        message.startswith("digits/1 has one session for all batch sizes, and is slow where sizes alternate: ")
        and reason in message
        for message in caplog.messages
    )
