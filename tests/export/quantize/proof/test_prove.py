"""Proofs of int8 networks: right ones pass, and each planted fault shows where it was planted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from normfold.contract.precision.record import PrecisionProof
from normfold.contract.precision.signal_to_noise import MAX_DB
from normfold.export.errors import ModelInputError
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import Int8Result
from normfold.export.quantize.proof import time_ratio
from normfold.export.quantize.proof.fused import fused_signal_to_noise
from normfold.export.quantize.proof.prove import Pair, prove_int8
from normfold.export.quantize.proof.rows import ProofRows
from normfold.export.quantize.proof.time_ratio import measure_time_ratio
from normfold.export.quantize.proof.worst_layer import find_worst_layer
from normfold.export.verify.runner import Inputs, ValueInfo
from tests.support.onnx_models import conv_blocks, small_convnet


def rows(count: int = 48, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4, 5, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)


class Quantised:
    """A folded network and its int8 one, of which constants can be changed."""

    def __init__(self, folder: Path, proto: onnx.ModelProto) -> None:
        self.reference, self.converted = folder / "reference.onnx", folder / "int8.onnx"
        onnx.save(proto, folder / "net.onnx")
        model = load_model(folder / "net.onnx")
        fold(model)
        save_model(model, self.reference)
        self.result: Int8Result = quantize_int8(self.reference, self.converted, samples={"x": rows(seed=2)})

    def change(self, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
        """Change the first constant whose name ends so; return its name."""
        proto = onnx.load(self.converted)
        tensor = next(each for each in proto.graph.initializer if each.name.endswith(ending))
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))
        onnx.save(proto, self.converted)
        return tensor.name

    def prove(self, inputs: np.ndarray | None = None, labels: np.ndarray | None = None) -> PrecisionProof:
        pair = Pair(self.reference, self.converted, classes=("y",) if labels is not None else ())
        given = ProofRows({"x": rows() if inputs is None else inputs}, {} if labels is None else {"y": labels})
        return prove_int8(pair, self.result, given)


@pytest.fixture
def convnet(tmp_path: Path) -> Quantised:
    return Quantised(tmp_path, small_convnet(np.random.default_rng(0)))


@pytest.fixture
def chain(tmp_path: Path) -> Quantised:
    return Quantised(tmp_path, conv_blocks(np.random.default_rng(0), 3))


@pytest.mark.slow
def test_right_network_is_near_and_its_proof_says_so(convnet: Quantised) -> None:
    classes = np.random.default_rng(0).integers(0, 3, 48)

    found = convnet.prove(labels=classes)

    assert (found.rows, found.rows_from) == (48, "samples")
    assert found.outputs["y"] > 25
    assert found.pair_sum is not None
    assert found.pair_sum <= 32767
    assert found.fused_sqnr_db is not None
    assert found.fused_sqnr_db > 25
    assert found.worst_layer is not None
    assert found.worst_layer.sqnr_db > 25
    assert found.agreement is not None
    assert found.agreement.share > 0.9
    assert found.accuracy is not None
    assert set(found.time_ratio) == {1, 32}
    assert found.size_ratio > 0


@pytest.mark.slow
def test_planted_scale_shows_in_the_output_and_the_layer(chain: Quantised) -> None:
    right = chain.prove()
    chain.change("r1_scale", lambda scale: scale / 4)

    found = chain.prove()

    assert found.outputs["r2"] < right.outputs["r2"] - 10
    assert found.worst_layer is not None
    assert right.worst_layer is not None
    assert found.worst_layer.sqnr_db < right.worst_layer.sqnr_db - 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constant", "fault"),
    [
        ("w_scale", lambda scale: scale * np.linspace(0.2, 4, scale.size, dtype=np.float32)),
        ("w_quantized", lambda weight: -weight),
        ("bias_quantized", lambda bias: bias + 4 * np.abs(bias).max()),
    ],
    ids=["scale", "weight", "bias"],
)
def test_planted_fault_of_a_layer_lowers_the_signal_to_noise_of_its_output(
    convnet: Quantised, constant: str, fault: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert convnet.prove().outputs["y"] > 25
    convnet.change(constant, fault)

    found = convnet.prove()

    assert found.outputs["y"] < 15
    assert found.worst_layer is not None
    assert found.worst_layer.sqnr_db < 15


@pytest.mark.slow
def test_planted_weights_that_saturate_are_found_in_the_file(chain: Quantised) -> None:
    assert (chain.prove().pair_sum or 0) <= 32767
    chain.change("w1_quantized", lambda weight: np.full_like(weight, 127))

    assert chain.prove().pair_sum == 2 * 127 * 255


@pytest.mark.slow
def test_networks_without_common_values_have_no_worst_layer(chain: Quantised) -> None:
    pair = Pair(chain.reference, chain.reference)

    assert prove_int8(pair, chain.result, ProofRows({"x": rows(4)})).worst_layer is None


@pytest.mark.slow
def test_network_against_itself_is_equal(chain: Quantised) -> None:
    found = prove_int8(Pair(chain.reference, chain.reference), chain.result, ProofRows({"x": rows(4)}))

    assert found.outputs == {"r2": MAX_DB}
    assert found.size_ratio == 1


def test_runs_that_saturate_are_found_by_comparing_them() -> None:
    infos = [ValueInfo("x", ir.DataType.FLOAT, ("n", 100))]
    inputs = ProofRows({"x": rows(8).reshape(8, -1)})

    def exact(given: Inputs) -> dict[str, np.ndarray]:
        return {"y": given["x"]}

    def saturated(given: Inputs) -> dict[str, np.ndarray]:
        return {"y": np.clip(given["x"], -1, 1)}

    assert fused_signal_to_noise(exact, exact, inputs, infos, batchable=True) == MAX_DB
    assert fused_signal_to_noise(saturated, exact, inputs, infos, batchable=True) < 25


def test_rows_of_a_fixed_batch_size_leave_out_a_rest() -> None:
    infos = [ValueInfo("x", ir.DataType.FLOAT, (4, 2))]
    given = ProofRows({"x": np.zeros((10, 2))})

    assert [len(inputs["x"]) for _, inputs in given.batches(infos, batchable=True)] == [4, 4]
    with pytest.raises(ModelInputError, match="batches of 4 rows; 3 are not a whole batch"):
        list(ProofRows({"x": np.zeros((3, 2))}).batches(infos, batchable=True))


def test_rows_that_depend_on_each_other_run_one_by_one() -> None:
    infos = [ValueInfo("x", ir.DataType.FLOAT, ("n", 2))]

    assert [len(inputs["x"]) for _, inputs in ProofRows({"x": np.zeros((3, 2))}).batches(infos, False)] == [1, 1, 1]


def test_rows_are_repeated_from_the_first() -> None:
    found = ProofRows({"x": np.arange(3)}).repeated(5)

    assert found["x"].tolist() == [0, 1, 2, 0, 1]


def test_time_ratio_is_the_median_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def takes(seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock[0] += seconds

        return run

    assert measure_time_ratio(takes(0.01), takes(0.004)) == pytest.approx(0.4)
    assert measure_time_ratio(takes(0.01), takes(0.013)) == pytest.approx(1.3)


@pytest.mark.slow
def test_worst_layer_is_none_of_the_values_that_equalisation_changes(tmp_path: Path) -> None:
    proto = conv_blocks(np.random.default_rng(0), 3)
    factor = 10.0 ** np.linspace(-1.5, 1.5, 4)
    for tensor in proto.graph.initializer:
        across = {"bn0.scale": factor, "bn0.shift": factor, "w1": 1 / factor.reshape(1, -1, 1, 1)}.get(tensor.name)
        if across is not None:
            changed = (numpy_helper.to_array(tensor) * across).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    chain = Quantised(tmp_path, proto)
    (equalised,) = chain.result.equalised

    found = chain.prove().worst_layer
    blind = find_worst_layer(chain.reference, chain.converted, ProofRows({"x": rows()}), changed=())

    assert found is not None
    assert blind is not None
    assert found.value not in equalised.values
    assert blind.value in equalised.values
    assert found.sqnr_db > blind.sqnr_db + 10
