"""The drawing of a fold: a mark for each node, in the graph's order, an arc for each BatchNormalization.

Above the marks stand the arcs of the fold, below them, faintly, values that are read further on; a band marks
each block. Colour is never alone: layers are squares, BatchNormalization nodes discs, kept ones diamonds, and what is
not in the folded graph is hollow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from normfold.display.pages.batchnorm_outcomes import class_of
from normfold.display.pages.facts import Arc, Facts, Mark
from normfold.display.pages.line_layout import break_lines, crossings, find_blocks, live_values
from normfold.display.pages.markup import Html, element, empty, join, shortened

PITCH = 24
_LEFT, _RIGHT = 44, 16
_MARK = 6
"""Half the size of a layer's mark."""
_GAP = 16
"""Between lines."""


@dataclass(frozen=True)
class _Place:
    """The place of a mark: its line, and the middle of it."""

    line: int
    x: float
    y: float


def draw(facts: Facts) -> Html:
    """Return the drawing as one SVG element."""
    marks = facts.marks
    live = live_values([mark.reads for mark in marks])
    lines = break_lines(crossings(((arc.start, arc.end) for arc in facts.arcs), len(marks)), live)
    places, height = _places(lines, marks, facts.arcs)
    width = _LEFT + PITCH * max(map(len, lines)) + _RIGHT
    arcs = defaultdict(list)
    for arc in facts.arcs:
        arcs[arc.entry].append(arc)
    others = [_node(mark, places[index]) for index, mark in enumerate(marks) if mark.entry is None]
    batchnorms = [
        _batchnorm(
            mark, places[index], [_fold_path(places[arc.start], places[arc.end]) for arc in arcs[mark.entry]], facts
        )
        for index, mark in enumerate(marks)
        if mark.entry is not None
    ]
    return element(
        "svg",
        element(
            "title",
            f"The {len(marks)} nodes of the graph, and the nodes that absorb each BatchNormalization",
            id="drawn",
        ),
        *(_band(block, line, places) for block in find_blocks(live) for line in lines),
        empty("path", class_="value", d=" ".join(_value_paths(marks, places))),
        *(_line_number(line, places) for line in lines),
        *others,
        *batchnorms,
        viewBox=f"0 0 {width} {height:.0f}",
        width=width,
        height=f"{height:.0f}",
        style=f"--natural:{width}px",
        role="img",
        aria_labelledby="drawn",
    )


def key(shape: str, class_: str) -> Html:
    """Return a mark alone, for the legend: a "layer", "batchnorm", "kept" or "other"."""
    shapes = {"layer": _square, "batchnorm": _disc, "kept": _diamond, "other": _dot}
    drawn = element("g", shapes[shape](10, 10), class_=class_)
    return element("svg", drawn, viewBox="0 0 20 20", width=20, height=20, aria_hidden="true")


def _places(lines: Sequence[range], marks: Sequence[Mark], arcs: Sequence[Arc]) -> tuple[list[_Place], float]:
    """Return where each mark stands, and the height of all; a line is as high as its arcs."""
    line_of = {index: number for number, line in enumerate(lines) for index in line}
    above, below = [18.0] * len(lines), [8.0] * len(lines)
    for arc in arcs:
        if (own := line_of[arc.start]) == line_of[arc.end]:
            above[own] = max(above[own], _arc_height(arc.end - arc.start))
    for index, mark in enumerate(marks):
        for source in mark.reads:
            if source >= 0 and line_of[source] == (own := line_of[index]) and index - source > 1:
                below[own] = max(below[own], _bend_depth(index - source))
    places, y = [], 0.0
    for number, line in enumerate(lines):
        y += above[number] + _MARK
        places += [_Place(number, _LEFT + PITCH * (index - line.start + 0.5), y) for index in line]
        y += _MARK + below[number] + _GAP
    return places, y - _GAP + 4


def _arc_height(distance: int) -> float:
    return min(13.0 + 3.0 * abs(distance), 52.0)


def _bend_depth(distance: int) -> float:
    return min(7.0 + 1.3 * abs(distance), 34.0)


def _fold_path(start: _Place, end: _Place) -> str:
    """Return the arc of a fold, with an arrow's head at its end."""
    if start.line == end.line:
        direction, reach = -1, _arc_height(round((end.x - start.x) / PITCH)) * 4 / 3 - 8
        first = last = start.y - _MARK - 2
        bend = first - reach
        curve = f"C{start.x:.0f} {bend:.0f} {end.x:.0f} {bend:.0f} {end.x:.0f} {last:.0f}"
    else:
        direction = 1 if end.line < start.line else -1
        first, last, reach = start.y - direction * (_MARK + 2), end.y + direction * (_MARK + 2), 34 * direction
        curve = f"C{start.x:.0f} {first - reach:.0f} {end.x:.0f} {last + reach:.0f} {end.x:.0f} {last:.0f}"
    return f"M{start.x:.0f} {first:.0f}{curve}m-3 {5 * direction}l3 {-5 * direction}l3 {5 * direction}"


def _value_paths(marks: Sequence[Mark], places: Sequence[_Place]) -> Iterator[str]:
    """Yield the paths of the values: straight to the next node, bent to a later one, a stub towards another line."""
    stubs = set()
    for index, (mark, place) in enumerate(zip(marks, places, strict=True)):
        for source in (source for source in mark.reads if 0 <= source < index):
            other, top = places[source], place.y + _MARK + 1
            if other.line != place.line:
                if index - source > 1:
                    stubs |= {(source, 1), (index, -1)}
            elif index - source == 1:
                yield f"M{other.x:.0f} {other.y:.0f}H{place.x:.0f}"
            else:
                width, depth = place.x - other.x, _bend_depth(index - source) * 4 / 3 - 4
                yield f"M{other.x:.0f} {top:.0f}c0 {depth:.0f} {width:.0f} {depth:.0f} {width:.0f} 0"
    for index, direction in sorted(stubs):
        yield f"M{places[index].x:.0f} {places[index].y + _MARK + 1:.0f}q{2 * direction} 9 {10 * direction} 9"


def _band(block: range, line: range, places: Sequence[_Place]) -> Html | None:
    """Return the band of the part of a block that stands in a line."""
    start, end = max(block.start, line.start), min(block.stop, line.stop)
    if start >= end:
        return None
    x, width = places[start].x - PITCH / 2 + 1.5, PITCH * (end - start) - 3
    title = element("title", f"A block of {len(block)} nodes")
    return element("rect", title, class_="block", x=x, y=places[start].y - 11, width=width, height=22, rx=6)


def _line_number(line: range, places: Sequence[_Place]) -> Html:
    return element("text", line.start + 1, x=_LEFT - 6, y=f"{places[line.start].y + 4:.0f}")


def _node(mark: Mark, place: _Place) -> Html:
    """Return the mark of a node that is not a BatchNormalization."""
    says = f"{mark.operator} {shortened(mark.label)}"
    if mark.absorbed:
        says += f": absorbs {mark.absorbed} BatchNormalization"
    if mark.now is None:
        says += ": not in the folded graph"
    elif mark.now != mark.operator:
        says += f": becomes {mark.now}"
    shape = _square if mark.is_layer else _dot
    kind = "layer" if mark.is_layer else "other"
    return element("g", element("title", says), shape(place.x, place.y), class_=kind if mark.now else f"{kind} gone")


def _batchnorm(mark: Mark, place: _Place, paths: Sequence[str], facts: Facts) -> Html:
    """Return the mark of a BatchNormalization with its arcs, linked to its row in the table."""
    assert mark.entry is not None
    entry = facts.report.entries[mark.entry]
    outcome = entry.outcome.value
    into = f" into {', '.join(map(shortened, entry.into))}" if entry.into else ""
    says = f"BatchNormalization {shortened(entry.node)}: {outcome}{into}"
    if entry.reason_code:
        says += f" ({entry.reason_code})"
    shape = _diamond if outcome == "kept" else _disc
    drawn = join([element("title", says), *(empty("path", d=path) for path in paths), shape(place.x, place.y)])
    return element(
        "a", drawn, class_=f"bn {class_of(entry.outcome)}", href=f"#bn-{mark.entry + 1}",
        id=f"mark-{mark.entry + 1}", tabindex=-1,
    )  # fmt: skip


def _square(x: float, y: float) -> Html:
    return empty("rect", x=f"{x - _MARK:.0f}", y=f"{y - _MARK:.0f}", width=2 * _MARK, height=2 * _MARK, rx=2)


def _disc(x: float, y: float) -> Html:
    return empty("circle", cx=f"{x:.0f}", cy=f"{y:.0f}", r=_MARK - 0.5)


def _diamond(x: float, y: float) -> Html:
    return empty("path", class_="shape", d=f"M{x:.0f} {y - 8:.0f}l8 8l-8 8l-8 -8z")


def _dot(x: float, y: float) -> Html:
    return empty("circle", cx=f"{x:.0f}", cy=f"{y:.0f}", r=3.5)
