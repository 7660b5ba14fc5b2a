"""The placement of a network: how many of its nodes each provider runs.

ONNX Runtime reports it since 1.24, if the session's options request it. It counts the nodes as they were assigned:
after constants were folded, before a provider fused its nodes. With an older ONNX Runtime the placement is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normfold.service.runtime.providers.table import CPU, short_name

RECORD = "session.record_ep_graph_assignment_info"
"""Entry of a session's configuration that requests the report; an older ONNX Runtime ignores it."""


@dataclass(frozen=True)
class Placement:
    """The provider that runs a network.

    Attributes:
        provider: its short name.
        options: in force: ONNX Runtime's report over those that were requested.
        nodes: number of nodes by provider; None if unknown.
        fell_back: whether `auto` chose it because the provider before it did not work.
        runs_on_host: whether the host's processors run the network.
    """

    provider: str
    options: Mapping[str, str]
    nodes: Mapping[str, int] | None
    fell_back: bool = False
    runs_on_host: bool = True

    @property
    def left_on_cpu(self) -> bool:
        """Whether the CPU runs the network, or nodes of it, instead of an accelerator."""
        return self.fell_back or (self.provider != CPU and CPU in (self.nodes or ()))

    def __str__(self) -> str:
        """Return it for a log line: `cuda: 120 nodes on cuda, 3 on cpu`."""
        nodes = "" if self.nodes is None else f": {describe_nodes(self.nodes)}"
        return f"{self.provider}{nodes}"


def read_nodes(session: Any) -> dict[str, int] | None:
    """Return the number of nodes by provider, the largest first; None if ONNX Runtime does not report it."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[short_name(subgraph.ep_name)] += len(subgraph.get_nodes())
    return dict(nodes.most_common())


def describe_nodes(nodes: Mapping[str, int]) -> str:
    """Return the number of nodes by provider in words: `120 nodes on cuda, 3 on cpu`."""
    if not nodes:
        return "no nodes"
    (first, number), *others = nodes.items()
    text = f"{number} node{'s' * (number != 1)} on {first}"
    return ", ".join([text, *(f"{count} on {name}" for name, count in others)])
