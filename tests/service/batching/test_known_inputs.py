"""Tensors on which a network has run tell a client's fault from the service's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from normfold.service.batching.known_inputs import MAX_BYTES, KnownInputs
from normfold.service.errors import InvalidRequestError, RunError

SPECS = {"x": ("FP32", (-1, -1, 3)), "text": ("BYTES", (-1,))}


class Network:
    """Runs where its condition holds, and fails otherwise."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error: Exception = error or RunError("planted")
        self.accepted: list[tuple[int, ...]] = []
        self.runs: list[Mapping[str, Any]] = []

    def __call__(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:  # noqa: ARG002
        self.runs.append(tensors)
        if tensors["x"].shape not in self.accepted:
            raise self.error
        return []


@pytest.mark.parametrize("error", [RunError("planted"), InvalidRequestError("planted")])
def test_network_that_runs_on_no_size_fails_by_itself(error: Exception) -> None:
    network = Network(error)
    assert KnownInputs(specs=SPECS).fail_too(network, ["y"])
    assert [run["x"].shape[1] for run in network.runs] == [1, 2, 4, 8, 16, 32, 64, 128, 224, 256]
    assert all(run["x"].dtype == np.float32 and not run["x"].any() for run in network.runs)
    assert network.runs[0]["text"].tolist() == [""]


def test_network_that_runs_on_a_size_is_not_at_fault_until_it_fails_on_that_too() -> None:
    network, known = Network(), KnownInputs(specs=SPECS)
    network.accepted = [(1, 8, 3)]
    assert not known.fail_too(network, ["y"])
    tried = len(network.runs)
    assert not known.fail_too(network, ["y"])
    assert len(network.runs) == tried + 1  # the other sizes are not tried again
    network.accepted = []
    assert known.fail_too(network, ["y"])


def test_tensors_of_the_first_answered_request_are_kept_as_copies() -> None:
    network, known = Network(), KnownInputs(specs=SPECS)
    first, later = np.ones((2, 56, 3), np.float32), np.ones((2, 57, 3), np.float32)
    known.note({"x": first}, first_row=True)
    known.note({"x": later}, first_row=True)
    first[:] = 5
    network.accepted = [(1, 56, 3)]
    assert not known.fail_too(network, ["y"])
    (run,) = network.runs
    assert np.array_equal(run["x"], np.ones((1, 56, 3)))
    network.accepted = [(1, 57, 3), (1, 8, 3)]
    assert known.fail_too(network, ["y"])


def test_request_that_runs_alone_is_kept_whole_and_a_large_one_is_not_kept() -> None:
    network, known = Network(), KnownInputs(specs=SPECS)
    known.note({"x": np.ones((2, 5, 3), np.float32)}, first_row=False)
    known.fail_too(network, ["y"])
    assert network.runs[0]["x"].shape == (2, 5, 3)

    large = KnownInputs(specs=SPECS)
    large.note({"x": np.ones((1, MAX_BYTES // 4 + 1, 1), np.float32)}, first_row=True)
    assert not large.fail_too(network, ["y"])  # whose fault it is remains unknown
    assert len(network.runs) == 1
