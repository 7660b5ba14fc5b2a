"""Names of torch modules, read from what torch's exporter writes beside each node."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normfold.export.graph.module_names import module_name
from tests.support.onnx_models import IMAGE, conv_batchnorm, folded, model

SCOPES = "pkg.torch.onnx.name_scopes"
NAMESPACE = ": __main__.Net/layer1: torch.nn.Sequential/layer1.0.bn1: torch.nn.BatchNorm2d/batch_norm: aten.batch_norm"


def node_with(properties: dict[str, str]) -> ir.Node:
    node = ir.Node("", "Relu", [])
    node.metadata_props.update(properties)
    return node


@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        ({SCOPES: "['', 'layer1', 'layer1.0.bn1', 'batch_norm']"}, "layer1.0.bn1"),
        ({"namespace": NAMESPACE}, "layer1.0.bn1"),
        ({SCOPES: "['', 'conv', 'conv2d']", "namespace": NAMESPACE}, "conv"),
        ({SCOPES: "['', 'relu']"}, None),
        ({SCOPES: "['relu']"}, None),
        ({SCOPES: "[]"}, None),
        ({SCOPES: "not a list", "namespace": NAMESPACE}, "layer1.0.bn1"),
        ({SCOPES: "[1, 2]"}, None),
        ({SCOPES: "(" * 100_000}, None),
        ({SCOPES: "__import__('os').getcwd()"}, None),
        ({}, None),
    ],
)
def test_module_name_is_that_of_the_innermost_module(properties: dict[str, str], wanted: str | None) -> None:
    assert module_name(node_with(properties)) == wanted


def test_module_name_of_a_batchnorm_and_its_absorber_are_in_the_report() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(0))
    proto = model(nodes, IMAGE, ["y"], constants)
    for node, module in zip(proto.graph.node, ("stem.conv", "stem.bn"), strict=True):
        node.metadata_props.append(onnx.StringStringEntryProto(key=SCOPES, value=repr(["", "stem", module, "call"])))

    _, report = folded(proto)

    (entry,) = report.entries
    assert (entry.module, entry.into_modules) == ("stem.bn", ("stem.conv",))
    assert entry.to_dict()["module"] == "stem.bn"
    assert entry.to_dict()["into_modules"] == ["stem.conv"]


def test_module_name_is_none_where_the_exporter_is_not_torch() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(0))

    _, report = folded(model(nodes, IMAGE, ["y"], constants))

    assert (report.entries[0].module, report.entries[0].into_modules) == (None, (None,))
