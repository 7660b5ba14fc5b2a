"""A BatchNormalization in training mode stays and is named; the frozen ones beside it are folded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.export.errors import TrainingModeError
from normfold.export.fold.report import FoldReport, Outcome
from tests.support.onnx_models import batchnorm, folded, model, operators, set_training_mode, statistics

INPUT: Any = {"x": ["n", 4, 5, 5]}


def network(training: tuple[bool, ...], opset: int = 17, dtype: Any = np.float64) -> onnx.ModelProto:
    """Make Conv, BatchNormalization and Relu, as often as there are modes."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {}
    value = "x"
    for place, trains in enumerate(training):
        nodes.append(helper.make_node("Conv", [value, f"w{place}"], [f"h{place}"], name=f"conv{place}"))
        nodes.append(batchnorm(f"h{place}", f"n{place}", f"bn{place}"))
        nodes.append(helper.make_node("Relu", [f"n{place}"], [f"r{place}"]))
        if trains and opset >= 14:
            set_training_mode(nodes[-2])
            nodes[-2].output[1:] = [f"mean{place}", f"var{place}"]
        elif trains:
            nodes[-2].output.extend(f"{field}{place}" for field in ("mean", "var", "saved_mean", "saved_var"))
        constants |= {f"w{place}": rng.normal(size=(4, 4, 1, 1))} | statistics(rng, 4, f"bn{place}")
        value = f"r{place}"
    typed = {name: array.astype(dtype) for name, array in constants.items()}
    return model(nodes, INPUT, [value], typed, opset=opset, dtype=dtype)


def codes(report: FoldReport) -> list[str | None]:
    return [entry.reason_code for entry in report.entries]


@pytest.mark.parametrize("opset", [9, 13, 14, 15, 18])
def test_training_batchnorm_stays_beside_a_frozen_one(opset: int) -> None:
    result, report = folded(network((True, False), opset))

    assert operators(result) == ["Conv", "BatchNormalization", "Relu", "Conv", "Relu"]
    assert codes(report) == ["training-mode", None]
    assert "'bn0'" in (report.entries[0].reason or "")
    assert [entry.outcome for entry in report.entries] == [Outcome.KEPT, Outcome.FOLDED_BACK]
    (warning,) = report.warnings
    assert warning.startswith("1 of 2 BatchNormalization nodes are in training mode and were kept: 'bn0'.")
    assert list(report.parameters) == ["bn1"]


def test_training_batchnorm_keeps_its_mode_and_parameters() -> None:
    source = network((True, False))
    result, _ = folded(source)

    assert result.graph.node[1] == source.graph.node[1]
    assert result.graph.node[0] == source.graph.node[0]


def test_training_batchnorm_takes_no_affine_of_a_neighbour() -> None:
    """What normalises by the batch undoes a gain before it, epsilon apart."""
    rng = np.random.default_rng(1)
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), batchnorm("t", "n", "frozen"), batchnorm("n", "m", "learns"),
             helper.make_node("Relu", ["m"], ["y"])]  # fmt: skip
    set_training_mode(nodes[2])
    source = model(nodes, INPUT, ["y"], statistics(rng, 4, "frozen") | statistics(rng, 4, "learns"))

    result, report = folded(source)

    assert operators(result) == ["Tanh", "BatchNormalization", "BatchNormalization", "Relu"]
    assert codes(report) == ["operator/training-mode", "training-mode"]


def test_training_batchnorm_alone_is_an_error() -> None:
    with pytest.raises(TrainingModeError, match="'bn0' is in training mode"):
        folded(network((True, True)))


def test_training_batchnorm_among_many_is_named_for_the_first_three() -> None:
    _, report = folded(network((True, True, True, True, False)))

    assert "4 of 5" in report.warnings[0]
    assert "'bn0', 'bn1', 'bn2' and others." in report.warnings[0]
