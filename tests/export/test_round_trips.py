"""Round trips of whole networks: what `repair` and `unfold` write computes the same and folds to the same.

Three architectures and a published graph run with the tests; `make test-backend`, which sets BACKEND_CASES=all, takes
all of the project's architectures, small, and all ten graphs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.export.bundle.export import export_bundle
from normfold.export.files.fold_file import fold_file
from normfold.export.repair.repair import repair_file
from normfold.export.unfold.unfold import unfold_bundle, unfold_file
from normfold.export.verify.verify import verify
from tests.support.onnx_models import assert_same_weights, operators
from tests.support.published_graphs import NAMES, published_graph
from tests.support.training import ARCHITECTURES, write_architecture

pytestmark = pytest.mark.slow

ALL = os.environ.get("BACKEND_CASES") == "all"
NETWORKS = [*ARCHITECTURES, *NAMES] if ALL else ["densenet", "mlp", "preact_resnet", "mobilenetv3_small_050"]
SAMPLES = 34


@dataclass(frozen=True)
class Network:
    """A network with its BatchNormalization nodes, its fold, and samples of its input."""

    source: Path
    folded: Path
    samples: Path


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Give each network, folded, once for all tests; its files are removed after them."""
    name, folder = str(request.param), tmp_path_factory.mktemp(request.param)
    found = Network(folder / "source.onnx", folder / "folded.onnx", folder / "samples.npz")
    if name in ARCHITECTURES:
        write_architecture(name, found.source)
    else:
        onnx.save(published_graph(name, small=True), found.source)
    fold_file(found.source, found.folded, verified=False)
    (value,) = onnx.load(found.source).graph.input
    shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    rows = np.random.default_rng(1).standard_normal((SAMPLES, *shape[1:])).astype(np.float32)
    np.savez(found.samples, **{value.name: rows})
    yield found
    for path in folder.iterdir():
        path.unlink()


def in_training_mode(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose BatchNormalization nodes are all in training mode."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in changed.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("training_mode", 1)])
            node.output.extend([f"{node.output[0]}.new_mean", f"{node.output[0]}.new_var"])
    return changed


def test_repair_of_a_network_in_training_mode_gives_the_network_in_inference_mode(
    network: Network, tmp_path: Path
) -> None:
    source = onnx.load(network.source)
    onnx.save(in_training_mode(source), tmp_path / "training.onnx")

    report = repair_file(tmp_path / "training.onnx", tmp_path / "repaired.onnx")

    assert len(report.nodes) == operators(source).count("BatchNormalization") > 0
    assert verify(network.source, tmp_path / "repaired.onnx").passes
    fold_file(tmp_path / "repaired.onnx", tmp_path / "folded.onnx", verified=False)
    assert_same_weights(onnx.load(network.folded), onnx.load(tmp_path / "folded.onnx"), units=0)


def test_unfold_of_a_network_folds_to_the_same_layers(network: Network, tmp_path: Path) -> None:
    found = unfold_file(network.folded, tmp_path / "unfolded.onnx", network.samples)

    assert found.verification.passes
    folded, unfolded = onnx.load(network.folded), onnx.load(tmp_path / "unfolded.onnx")
    added = [operators(each).count("BatchNormalization") for each in (folded, unfolded)]
    assert added[1] - added[0] == len(found.report.layers) > 0
    fold_file(tmp_path / "unfolded.onnx", tmp_path / "again.onnx")
    assert_same_weights(folded, onnx.load(tmp_path / "again.onnx"))


def test_unfold_of_a_bundle_folds_to_its_own_bytes(network: Network, tmp_path: Path) -> None:
    path = export_bundle(network.source, tmp_path / "models", "net", monitoring=False).path

    unfold_bundle(tmp_path / "models", "net", tmp_path / "unfolded.onnx")
    fold_file(tmp_path / "unfolded.onnx", tmp_path / "again.onnx", verified=False)

    assert (tmp_path / "again.onnx").read_bytes() == (path / "model.onnx").read_bytes()
