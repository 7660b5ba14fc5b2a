from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from normfold.contract.source_card import SourceCard, read_source_card
from normfold.models.architectures.blocks import ConvBatchNorm, ConvTransposeBatchNorm, LinearBatchNorm
from normfold.models.architectures.registry import build
from normfold.models.errors import NoRunningStatisticsError, OnnxExportError, TrainModeError
from normfold.models.onnx.to_onnx import InputSpec, OnnxFile, check_exportable, checkpoint_to_onnx, to_onnx
from normfold.models.training.checkpoint import load_checkpoint, save_checkpoint
from tests.support.training import MakeRun


def unsettle(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics, scale and shift as after training, and return the network in eval mode."""
    torch.manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2)
    return network.eval()


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


class Everything(nn.Module):
    """Each block, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.down = ConvBatchNorm(1, 3, stride=2)
        self.twice = ConvBatchNorm(3, 3)
        self.up = ConvTransposeBatchNorm(3, 2)
        self.linear = LinearBatchNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.twice(self.twice(self.down(x))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, OnnxFile]:
    network = unsettle(Everything())
    path = tmp_path_factory.mktemp("everything") / "m.onnx"
    return network, to_onnx(network, path, {"image": InputSpec((1, 8, 8))}, outputs=["scores"], dynamic_size=True)


@pytest.mark.slow
def test_batchnorm_nodes_have_the_names_of_their_modules(everything: tuple[nn.Module, OnnxFile]) -> None:
    _, file = everything
    names = [node.name for node in onnx.load(file.path).graph.node if node.op_type == "BatchNormalization"]

    assert names == ["down.norm", "twice.norm", "twice.norm#2", "up.norm", "linear.norm"]


@pytest.mark.slow
def test_graph_equals_eval_and_not_train_for_any_batch_and_size(everything: tuple[nn.Module, OnnxFile]) -> None:
    network, written = everything
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    assert dims(model.graph.input[0]) == ["batch", 1, "height", "width"]
    assert dims(model.graph.output[0]) == ["batch", 4]
    assert (written.inputs, written.outputs, written.batchnorm) == (("image",), ("scores",), 5)
    for shape in ((1, 1, 8, 8), (3, 1, 6, 12)):
        x = torch.randn(shape)
        (y,) = ReferenceEvaluator(model).run(None, {"image": x.numpy()})
        np.testing.assert_allclose(y, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    in_train = copy.deepcopy(network).train()(x).detach().numpy()
    assert not np.allclose(y, in_train, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_batchnorms_remain_and_nodes_added_by_the_exporter_are_removed(everything: tuple[nn.Module, OnnxFile]) -> None:
    path = everything[1].path
    assert kinds(path).count("BatchNormalization") == 5
    assert set(kinds(path)) == {"Conv", "ConvTranspose", "BatchNormalization", "Relu", "ReduceMean", "Gemm"}
    model = onnx.load(path)
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert all(len(node.input) == 2 for node in weighted)  # a missing bias is not an initializer of zeros
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]


@pytest.mark.slow
def test_file_is_reproducible_and_holds_no_data_about_the_machine(tmp_path: Path) -> None:
    network = unsettle(nn.Sequential(ConvBatchNorm(1, 2), nn.Flatten(), nn.Linear(8, 2, bias=True)))
    nn.init.zeros_(network[2].bias)
    data = []
    for name in ("a.onnx", "b.onnx"):
        to_onnx(network, tmp_path / name, {"x": InputSpec((1, 2, 2))}, opset=18)
        data.append((tmp_path / name).read_bytes())
    assert data[0] == data[1]
    assert b".py" not in data[0]
    assert b"stack_trace" not in data[0]
    model = onnx.load(tmp_path / "a.onnx")
    assert model.opset_import[0].version == 18
    assert not model.doc_string
    assert all(not node.doc_string and not node.metadata_props for node in model.graph.node)
    assert len(model.graph.node[-1].input) == 3  # a bias of the network's own stays, also when it is zero
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "a.onnx", "b.json", "b.onnx"]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.block = LinearBatchNorm(5, 4)

    def forward(self, row: Tensor, token: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        hidden = self.block(torch.cat([row, self.embedding(token)], dim=1))
        return {"scores": hidden, "more": (hidden.argmax(1), row > 0)}


@pytest.mark.slow
def test_several_inputs_and_outputs_keep_their_names_and_dtypes(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    network = unsettle(TwoInputs())
    path = tmp_path / "m.onnx"
    inputs = {"row": InputSpec((2,)), "token": torch.tensor([4])}  # one row, which torch would take for a fixed size
    written = to_onnx(network, path, inputs, card=SourceCard(logits=("scores",)))
    assert written.outputs == ("scores", "more.0", "more.1")
    model = onnx.load(path)
    types = [value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]]
    proto = onnx.TensorProto
    assert types == [proto.FLOAT, proto.INT64, proto.FLOAT, proto.INT64, proto.BOOL]
    assert all(dims(value)[0] == "batch" for value in [*model.graph.input, *model.graph.output])
    row, token = torch.randn(3, 2), torch.tensor([0, 2, 4])
    outputs = ReferenceEvaluator(model).run(None, {"row": row.numpy(), "token": token.numpy()})
    expected = network(row, token)
    for got, wanted in zip(outputs, (expected["scores"], *expected["more"]), strict=True):
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert not list(recwarn)


@pytest.mark.slow
def test_export_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    to_onnx(unsettle(LinearBatchNorm(2, 2)), tmp_path / "m.onnx", {"x": InputSpec((2,))})
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.slow
def test_linear_on_sequences_has_its_weight_as_an_initializer(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    to_onnx(nn.Linear(200, 100).eval(), path, {"x": InputSpec((7, 200))})
    assert kinds(path) == ["MatMul", "Add"]


def test_network_in_train_mode_is_refused_and_not_changed(tmp_path: Path) -> None:
    network = unsettle(Everything())
    network.twice.norm.train()
    with pytest.raises(TrainModeError, match="Layer 'twice.norm' is in train mode; call network.eval()"):
        to_onnx(network, tmp_path / "m.onnx", {"x": InputSpec((1, 8, 8))})
    assert network.twice.norm.training
    assert not network.training
    with pytest.raises(TrainModeError, match="Layer 'down.weight_layer' and 11 more are in train mode"):
        check_exportable(Everything())
    with pytest.raises(TrainModeError, match="'Dropout'"):
        check_exportable(nn.Dropout())
    container = nn.Sequential(nn.ReLU().eval()).train()
    container[0].eval()
    with pytest.raises(TrainModeError, match="'Sequential'"):
        check_exportable(container)
    assert list(tmp_path.iterdir()) == []


def test_batchnorm_without_running_statistics_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval()
    with pytest.raises(NoRunningStatisticsError, match="Layer '1' keeps no running mean and variance"):
        to_onnx(network, tmp_path / "m.onnx", {"x": InputSpec((2,))})


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Ignores(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return x * 2


class Number(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "inputs", "more", "message"),
    [
        (
            FixedBatch(),
            {"x": InputSpec((3,))},
            {},
            r"does not take inputs of shape \[3, 3\]: shape '\[2, 3\]' is invalid",
        ),
        (Branches(), {"x": InputSpec((3,))}, {}, "torch cannot export the network: Could not guard on data-dependent"),
        (nn.Linear(4, 2), {"x": InputSpec((3,))}, {}, r"does not take inputs of shape \[2, 3\]: mat1 and mat2"),
        (
            nn.Sequential(ConvBatchNorm(1, 1), nn.Flatten(), nn.Linear(64, 2)),
            {"x": InputSpec((1, 8, 8))},
            {"dynamic_size": True},
            r"does not take inputs of shape \[3, 1, 12, 12\]",
        ),
        (Number(), {"x": InputSpec((3,))}, {}, "must return tensors.*tuple of Tensor, int"),
        (nn.ReLU(), {"x": InputSpec((3,))}, {"outputs": ["a", "b"]}, "returns 1 tensors; names given: a, b"),
        (nn.ReLU(), {"x": InputSpec((3,))}, {"outputs": ["x"]}, "Name 'x' is given to two"),
        (
            nn.ReLU(),
            {"x": InputSpec((3,))},
            {"card": SourceCard(logits=("y",))},
            "lists 'y' as logits, but the outputs are output",
        ),
        (nn.ReLU(), {"x": InputSpec((3,))}, {"opset": 11}, "Opset 11 is not supported; choose from 18"),
        (nn.ReLU(), {"x": torch.zeros(())}, {}, "'x' needs a batch axis"),
        (nn.ReLU(), {"x": InputSpec((99999999, 99999999))}, {}, "input 'x' does not fit"),
        (nn.ReLU(), {"x": InputSpec((99999999, 99999999, 99999999))}, {}, "input 'x' does not fit"),
        (nn.ReLU(), {"x": InputSpec((3,))}, {"dynamic_size": True}, r"cannot be dynamic: .*, but 'x' \[3\]\."),
        (
            nn.Identity(),
            {"x": InputSpec((1, 2, 2), torch.int64)},
            {"dynamic_size": True},
            "no floating-point input",
        ),
        (nn.ReLU(), {}, {}, "at least one named input"),
    ],
)
def test_failed_export_is_reported_in_one_sentence_and_writes_nothing(
    tmp_path: Path, network: nn.Module, inputs: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(OnnxExportError, match=message) as caught:
        to_onnx(network.eval(), tmp_path / "m.onnx", inputs, **more)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_unused_input_remains_an_input(tmp_path: Path) -> None:
    to_onnx(Ignores().eval(), tmp_path / "m.onnx", {"x": InputSpec((3,)), "y": InputSpec((2,))})
    assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.input] == ["x", "y"]


@pytest.mark.slow
def test_batchnorm_removed_by_the_exporter_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.models.onnx.to_onnx.count_nodes", lambda *_: 0)
    with pytest.raises(OnnxExportError, match="calls BatchNorm 1 times, the exported graph has 0"):
        to_onnx(unsettle(LinearBatchNorm(2, 2)), tmp_path / "m.onnx", {"x": InputSpec((2,))})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_checkpoint_is_exported_with_its_card(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run()
    network = unsettle(build(config.architecture))
    save_checkpoint(tmp_path / "run", network, config)
    written = checkpoint_to_onnx(load_checkpoint(tmp_path / "run"), tmp_path / "m.onnx")
    assert (written.inputs, written.outputs) == (("input",), ("logits",))
    assert written.card_path == tmp_path / "m.json"
    assert read_source_card(written.card_path) == config.card
    assert json.loads(written.card_path.read_text())["labels"] == ["0", "1", "2"]
    x = dataset.tensors(dataset.splits.test)
    (y,) = ReferenceEvaluator(onnx.load(written.path)).run(None, {"input": x})
    np.testing.assert_allclose(y, network(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
