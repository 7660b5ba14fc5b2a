"""onnx's own backend tests: `inspect` and `fold` give a result or one sentence, and a folded file computes the same.

`make test` takes the light and the simple models, every node case with BatchNormalization, and a tenth of the others;
`make test-backend`, which sets BACKEND_CASES=all, takes all of them and prints how many were folded or rejected.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from normfold.export.files.fold_file import fold_file
from normfold.export.verify.verify import verify
from tests.support.onnx_models import run32

ALL = os.environ.get("BACKEND_CASES") == "all"
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ("simple", "pytorch-converted", "pytorch-operator")
LIGHT = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
HEAVY = ("vgg19", "zfnet512")
"""Models without BatchNormalization that take longest to run."""

Outcome = Callable[[onnx.ModelProto, Sequence[Sequence[Any]]], str]


@dataclass(frozen=True)
class Case:
    """A model, and the inputs of each of its runs, in the graph's order."""

    name: str
    model: onnx.ModelProto
    rows: list[list[Any]]

    @property
    def has_batchnorm(self) -> bool:
        """Whether BatchNormalization is among the nodes of the graph."""
        return any(node.op_type == "BatchNormalization" for node in self.model.graph.node)


def node_cases() -> Iterator[Case]:
    """Yield the cases of single operators, which onnx's modules make when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    for case in found:
        assert case.model is not None
        rows = [
            [numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given for given in inputs]
            for inputs, _ in case.data_sets or ()
        ]
        yield Case(case.name, case.model, rows)


def is_chosen(case: Case) -> bool:
    """Return whether a node case is in this run."""
    return ALL or case.has_batchnorm or zlib.crc32(case.name.encode()) % 10 == 0


def folder_cases(kind: str) -> Iterator[Case]:
    """Yield the cases that lie in files: a model, and its inputs beside it."""
    for folder in sorted((DATA / kind).iterdir()):
        model = onnx.load(folder / "model.onnx")
        rows = []
        for place in sorted(folder.glob("test_data_set_*")):
            files = [place / f"input_{number}.pb" for number in range(len(model.graph.input))]
            given = zip(files, model.graph.input, strict=True)
            rows.append([read_input(file, port.type) for file, port in given if file.exists()])
        yield Case(folder.name, model, rows)


def read_input(path: Path, kind: onnx.TypeProto) -> Any:
    """Return a tensor, or a list of tensors, from a file."""
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def input_of_light_model(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the input that onnx's own runner gives to a light model; shapes of weights are among its inputs too."""
    shapes = {tensor.name for tensor in model.graph.initializer}
    (port,) = [port for port in model.graph.input if port.name not in shapes]
    shape = [size.dim_value for size in port.type.tensor_type.shape.dim]
    count = np.prod(shape)
    return {port.name: (np.arange(count).reshape(shape) / count).astype(np.float32)}


def faults(cases: Iterator[Case], outcome: Outcome) -> dict[str, str]:
    """Return what is wrong, by the name of the case; print how many cases ended how."""
    found, counts = {}, Counter[str]()
    for case in cases:
        try:
            counts[outcome(case.model, case.rows)] += 1
        except Exception as error:  # noqa: BLE001 -- any error is a fault; the test names all of them
            found[case.name] = f"{type(error).__name__}: {error}"
    print("".join(f"\n{count:6} {words}" for words, count in counts.most_common()))  # noqa: T201
    assert counts or found
    return found


@pytest.mark.slow
def test_node_cases_fold_or_are_rejected_in_one_sentence(outcome: Outcome) -> None:
    found = faults(filter(is_chosen, node_cases()), outcome)
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS if ALL else KINDS[:1])
def test_small_models_fold_or_are_rejected_in_one_sentence(kind: str, outcome: Outcome) -> None:
    found = faults(folder_cases(kind), outcome)
    assert found == {}


def left_by_onnxruntime(source: Path, target: Path) -> int:
    """Return how many BatchNormalization nodes are left by ONNX Runtime at its level EXTENDED."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return count_batchnorm(target)


def count_batchnorm(path: Path) -> int:
    """Return the number of BatchNormalization nodes in a file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)["BatchNormalization"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LIGHT, *(HEAVY if ALL else ())])
def test_light_model_keeps_no_more_batchnorm_than_in_onnxruntime(name: str, tmp_path: Path) -> None:
    """Of published networks whose weights are made by ConstantOfShape nodes; outputs are those that onnx gives too."""
    source, target = DATA / "light" / f"light_{name}.onnx", tmp_path / "folded.onnx"
    fold_file(source, target, verified=False)
    verify(source, target, seeds=1).require()
    given = input_of_light_model(onnx.load(source))
    (got,) = run32(onnx.load(target), given)
    wanted = read_input(DATA / "light" / f"light_{name}_output_0.pb", onnx.TypeProto())
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-7)
    assert count_batchnorm(target) <= left_by_onnxruntime(source, tmp_path / "optimised.onnx")


def test_fold_that_writes_another_network_is_found(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_another(source: Path, target: Path, **_: bool) -> None:
        model = onnx.load(source)
        model.graph.node[0].op_type = "Neg"
        onnx.save(model, target)

    (case,) = [case for case in folder_cases("simple") if case.name == "test_single_relu_model"]
    monkeypatch.setattr("normfold.export.files.fold_file.fold_file", write_another)
    assert "differs by" in faults(iter([case]), outcome)["test_single_relu_model"]
