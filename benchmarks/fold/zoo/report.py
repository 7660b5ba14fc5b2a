"""The report of a run over many networks."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.fold.zoo.record import TOOLS, Record, total

LEFTOVERS = 10
EXAMPLES = 3


def print_report(console: Console, records: Sequence[Record]) -> None:
    """Print totals, each network, the largest leftovers by reason, and what failed."""
    measured = [record for record in records if not record.failed]
    with_batchnorm = [record for record in measured if record.batchnorm]
    console.print(network_table(with_batchnorm))
    console.print(leftover_table(with_batchnorm))
    for line in summary(with_batchnorm):
        console.print(line, soft_wrap=True, markup=False)
    for record in measured:
        if not record.batchnorm:  # Keras on torch writes Sub, Mul and Add
            before, after = record.nodes
            console.print(f"{record.network}: no BatchNormalization node; {before} nodes, {after} folded", markup=False)
    for record in records:
        for line in [f"not measured: {record.failed}"] if record.failed else record.faults():
            console.print(f"{record.network}: {line}", soft_wrap=True, markup=False)


def summary(records: Sequence[Record]) -> Iterator[str]:
    """Yield the totals in sentences."""
    if not records:
        return
    left = [record.left["normfold"] for record in records]
    yield f"{len(records)} networks with {sum(record.batchnorm for record in records)} BatchNormalization nodes"
    yield f"Normfold leaves {sum(left)}, in {sum(map(bool, left))} networks"
    for tool in TOOLS:
        theirs, ours = total(records, tool)
        read = [record for record in records if tool in record.left]
        behind = sum(tool in record.behind for record in read)
        yield f"{tool} leaves {theirs} in the {len(read)} networks that it reads, Normfold {ours}; fewer in {behind}"
    yield f"a second fold changes nothing in {sum(record.unchanged_again for record in records)} networks"
    errors = [record.error_over_noise for record in records]
    verified = sum(record.verified for record in records)
    yield f"verified: {verified}; error / noise: median {statistics.median(errors):.2f}, highest {max(errors):.2f}"
    if ratios := [record.ratio[0] for record in records if record.ratio]:
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        yield f"run / source's in {len(ratios)} networks: {low:.3f}, median {middle:.3f}, {high:.3f}"


def network_table(records: Sequence[Record]) -> Table:
    """Return one row a network."""
    table = Table("network")
    for heading in ("BN", "normfold", *TOOLS, "nodes", "after", "error / noise", "run / source's [95 %]"):
        table.add_column(heading, justify="right")
    for record in records:
        table.add_row(
            record.network,
            str(record.batchnorm),
            *(str(record.left.get(tool, "-")) for tool in ("normfold", *TOOLS)),
            *map(str, record.nodes),
            f"{record.error_over_noise:.2f}{'' if record.verified else ' !'}",
            "{:.3f} [{:.3f}, {:.3f}]".format(*record.ratio) if record.ratio else "",
        )
    return table


def leftover_table(records: Sequence[Record]) -> Table:
    """Return the reasons for which most nodes were kept, with the networks that have most of them."""
    nodes: Counter[str] = Counter()
    networks: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for reason, count in record.kept.items():
            nodes[reason] += count
            networks[reason][record.network] += count
    table = Table("reason: backwards/forwards", "nodes", "networks", "of which")
    for reason, count in nodes.most_common(LEFTOVERS):
        examples = ", ".join(f"{name} {number}" for name, number in networks[reason].most_common(EXAMPLES))
        table.add_row(reason, str(count), str(len(networks[reason])), examples)
    return table
