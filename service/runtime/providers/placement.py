"""Which provider runs how many nodes: ONNX Runtime knows since 1.24, if it is asked before the session is opened.

The graph is counted as it was when nodes were given to providers: after constants were folded, before a provider fused
what it got. An older ONNX Runtime does not tell, and then nothing is said: a guess would be worth less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normfold.service.runtime.providers.table import CPU, our_name

RECORD = "session.record_ep_graph_assignment_info"
"""The entry of a session's configuration that asks for it; those who do not know it ignore it."""


@dataclass(frozen=True)
class Place:
    """Where a network runs.

    Attributes:
        provider: what was got, by our name.
        options: of that provider: those that were asked for, and over them what ONNX Runtime says is in force.
        nodes: number of nodes by provider; None where ONNX Runtime does not tell.
        fell_back: whether `auto` went on to the next provider because one did not work.
        runs_on_host: whether the host's processors do the work.
    """

    provider: str
    options: Mapping[str, str]
    nodes: Mapping[str, int] | None
    fell_back: bool = False
    runs_on_host: bool = True

    @property
    def left_on_cpu(self) -> bool:
        """Whether the CPU does what something else was to do: all of it, or nodes that the provider did not take."""
        return self.fell_back or (self.provider != CPU and CPU in (self.nodes or ()))

    def __str__(self) -> str:
        """Return it in words."""
        nodes = "" if self.nodes is None else f": {describe_placement(self.nodes)}"
        return f"{self.provider}{nodes}"


def read_placement(session: Any) -> dict[str, int] | None:
    """Return the number of nodes by provider, the largest first; None where ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[our_name(subgraph.ep_name)] += len(subgraph.get_nodes())
    return dict(nodes.most_common())


def describe_placement(placement: Mapping[str, int]) -> str:
    """Return it in words: `120 nodes on cuda, 3 on cpu`."""
    if not placement:
        return "no nodes"
    (first, number), *others = placement.items()
    text = f"{number} node{'s' * (number != 1)} on {first}"
    return ", ".join([text, *(f"{count} on {name}" for name, count in others)])
