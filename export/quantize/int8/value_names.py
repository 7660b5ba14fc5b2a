"""Names that ONNX Runtime's quantiser may append its suffixes to.

For a value X it makes X_scale, X_zero_point, X_quantized, X_QuantizeLinear_Output and others, and does not look whether
the network has a value of that name. So each value has a number for its name while nodes are placed, and a dot that no
suffix begins with. Then every value of the network gets its name back, and each that the quantiser made has the name
that it would have given it, or one like it where that is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import onnx

_NUMBER = re.compile(r"(\d+\.)(.*)", re.DOTALL)
_CONSTANT = re.compile(r"(.+)_quantized(\.\d+)?", re.DOTALL)


def number_values(graph: onnx.GraphProto) -> dict[str, str]:
    """Give each value of a graph, and of the bodies in it, a number for its name, in place.

    Returns:
        The number of each name; one that several bodies have has one number.
    """
    numbers: dict[str, str] = {}
    _rename(graph, lambda name: numbers.setdefault(name, f"{len(numbers)}."))
    return numbers


def restore_names(graph: onnx.GraphProto, numbers: dict[str, str]) -> None:
    """Give each value its name back, in place, and names to what the quantiser made: values, and nodes.

    Args:
        graph: of numbered values, with nodes placed.
        numbers: as `number_values` returned them.
    """
    names = {number: name for name, number in numbers.items()}
    taken = set(numbers)

    def restored(name: str) -> str:
        if name not in names:
            names[name] = _named(name, names, taken)
        return names[name]

    _rename(graph, restored)
    labels = {node.name for node in graph.node}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = _named(node.name, names, labels)


def constant_name(name: str) -> str:
    """Return the name of the constant of the network that an integer constant was made of."""
    found = _CONSTANT.fullmatch(name)
    return name if found is None else found[1]


def _named(name: str, names: dict[str, str], taken: set[str]) -> str:
    """Return the name that a number and a suffix stand for, with another number appended if it is taken."""
    found = _NUMBER.fullmatch(name)
    base = name if found is None else f"{names[found[1]]}{found[2]}"
    result, count = base, 1
    while result in taken:
        result, count = f"{base}.{count}", count + 1
    taken.add(result)
    return result


def _rename(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = rename(value.name)
    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = rename(sparse.values.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [rename(name) if name else "" for name in names]
        for body in _bodies(node):
            _rename(body, rename)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
