"""Reports of folds and verifications in a terminal of 80 columns: whole words, grouped reasons, what was gained."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import helper
from rich.console import Console, RenderableType

from normfold.display.terminal.fold import fold_table, gain_sentence, size_record
from normfold.display.terminal.verification import timing_sentence, verification_record, verification_table
from normfold.display.terminal.width import middle_shortened, words_shortened
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.report import BatchNormOutcome, FoldReport, Outcome
from normfold.export.verify.runner import Engine
from normfold.export.verify.timing import Timing
from normfold.export.verify.tolerance import ChannelDifference, OutputDifference
from normfold.export.verify.verify import Verification
from tests.support.onnx_models import batchnorm, folded, model, statistics

LONG = "/backbone/stages.{}/blocks.{}/normalisation/BatchNormalization_of_the_second_branch"


def printed(table: RenderableType, width: int = 80) -> list[str]:
    """Return the lines that a terminal shows."""
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def blocked(blocks: int, names: str = "{}") -> onnx.ModelProto:
    """Make blocks of Relu, BatchNormalization, Sigmoid, in which each BatchNormalization stays."""
    rng = np.random.default_rng(0)
    nodes, constants, before = [], {}, "x"
    for place in range(blocks):
        nodes.append(helper.make_node("Relu", [before], [f"r{place}"], name=names.format(f"relu{place}", place)))
        nodes.append(batchnorm(f"r{place}", f"n{place}", f"bn{place}"))
        nodes[-1].name = names.format(f"bn{place}", place)
        nodes.append(helper.make_node("Sigmoid", [f"n{place}"], [f"s{place}"], name=names.format(f"s{place}", place)))
        constants |= statistics(rng, 4, f"bn{place}")
        constants[f"bn{place}.scale"] = -np.abs(constants[f"bn{place}.scale"])  # no negative gain passes a Relu
        before = f"s{place}"
    return model(nodes, {"x": ["n", 4, 5, 5]}, [before], constants)


def test_table_groups_equal_reasons_and_counts_them() -> None:
    _, report = folded(blocked(12))

    lines = printed(fold_table(report, 80))
    text = " ".join(" ".join(lines).split())

    assert "12 ×" in text
    assert "Backwards: Relu: a negative gain does not pass it." in text.replace("kept ", "")
    assert "First: bn0" in text
    assert "bn7" not in text
    assert len(lines) < 10


def test_table_lists_every_node_on_request() -> None:
    _, report = folded(blocked(12))

    text = " ".join(printed(fold_table(report, 80, every_node=True)))

    assert "×" not in text
    assert all(f"bn{place} " in text for place in range(12))


@pytest.mark.parametrize("every_node", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_keeps_words_whole_and_shortens_names_in_their_middle(width: int, every_node: bool) -> None:
    _, report = folded(blocked(2, LONG))

    lines = printed(fold_table(report, width, every_node=every_node), width)

    assert max(map(len, lines)) <= width
    words = {word for entry in report.entries for word in re.findall(r"[\w-]+", entry.reason or "") if len(word) < 20}
    shown = " ".join(lines)
    assert {"Backwards", "negative", "Forwards", "forwards"} <= words
    assert all(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown) for word in ("Backwards", "negative", "kept"))
    for line in lines:
        for word in line.split():
            assert "…" not in word or "/" in word  # only names lose their middle
    if every_node:
        assert any("/backbone" in line and "…" in line and "branch" in line for line in lines)


def test_table_has_no_folded_nodes_where_only_kept_ones_are_asked_for() -> None:
    report = FoldReport(
        [
            BatchNormOutcome("one", Outcome.FOLDED_BACK, ("conv",), ("conv",)),
            BatchNormOutcome("two", Outcome.KEPT, reason_codes=(ReasonCode.OPERATOR,), reason="Lrn 'n': it is not."),
        ]
    )

    assert not any("conv" in line for line in printed(fold_table(report, 80, kept_only=True)))
    assert any("conv" in line for line in printed(fold_table(report, 80)))


def test_table_names_the_torch_modules_beside_the_nodes() -> None:
    report = FoldReport(
        [
            BatchNormOutcome(
                "node_bn_7", Outcome.FOLDED_BACK, ("node_conv",), module="layer1.bn", into_modules=("layer1.conv",)
            )
        ]
    )

    lines = printed(fold_table(report, 80))

    assert lines[1].split() == ["node_bn_7", "folded", "back", "node_conv", "(layer1.conv)"]
    assert lines[2].split() == ["layer1.bn"]


def test_gain_is_counted_in_nodes_and_multiplications() -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), batchnorm("h", "y")]
    _, report = folded(model(nodes, {"x": ["n", 2]}, ["y"], {"w": rng.normal(size=(2, 3))} | statistics(rng, 3)))

    assert gain_sentence(report) == "Nodes: 2 before, 1 after. Multiplications for a row: 9 before, 6 after."
    assert size_record(report)["after"] == {"nodes": 1, "multiplications": 6}
    assert gain_sentence(FoldReport()) is None


def test_timing_is_one_sentence() -> None:
    sentence = timing_sentence(Timing(2.0, 1.25, 50))

    assert sentence.startswith("A run takes 2 ms before and 1.25 ms after: medians of 50 runs each")


def verification() -> Verification:
    outputs = {
        "a": OutputDifference(1e-7, 2e-7),
        "a_rather_long_name_of_an_output/of_the_second_head": OutputDifference(
            1e-9, 1e-9, channel=ChannelDifference(2e-3, 1e-7, 4e-6, axis=1, index=17)
        ),
        "c": OutputDifference(0.0, 0.0, 0.002, is_constant=True),
    }
    return Verification(outputs, True, Engine.ONNXRUNTIME)


def test_verification_has_a_line_for_each_output_and_for_a_channel_that_differs() -> None:
    lines = printed(verification_table(verification()))

    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines]
    assert cells[0] == ["output", "error", "noise", "error", "/", "noise", "allowed", "floor"]
    assert cells[1] == ["a", "1e-07", "2e-07", "0.5", "2.6e-06", "1e-06", "equal"]
    assert "…" in cells[2][0]
    assert cells[2][-1] == "1e-06"  # the channel below says why
    assert cells[3] == ["axis", "1:", "17", "0.002", "1e-07", "20000.0", "4.8e-06", "4e-06", "different"]
    assert cells[4] == ["c", "0", "0", "–", "0.002", "0.002", "equal"]
    assert " ".join(lines[5:]).startswith("Output 'c' was constant: ")


def test_verification_record_has_floor_channel_and_constant_beside_what_it_had() -> None:
    record = verification_record(verification())

    assert set(record) == {"passes", "batchable", "engine", "outputs", "notes"}
    assert not record["passes"]
    first, second, third = record["outputs"].values()
    assert set(first) == {"error", "noise", "ratio", "allowed", "floor", "passes", "constant", "channel"}
    assert first["channel"] is None
    assert (second["channel"]["index"], second["channel"]["passes"], second["passes"]) == (17, False, False)
    assert third["constant"]
    assert len(record["notes"]) == 1


@pytest.mark.parametrize(
    ("text", "width", "wanted"), [("abc", 3, "abc"), ("abcdef", 5, "ab…ef"), ("abcdef", 4, "ab…f"), ("", 4, "")]
)
def test_name_that_is_too_long_loses_its_middle(text: str, width: int, wanted: str) -> None:
    assert middle_shortened(text, width) == wanted


def test_words_are_shortened_one_by_one() -> None:
    assert words_shortened("at 'abcdefghij': it", 8) == "at 'abc…j': it"


@pytest.mark.parametrize("every_node", [False, True])
def test_names_with_control_characters_are_written_out(every_node: bool) -> None:
    _, report = folded(blocked(1, names="\x1b[31m{}\n"))

    lines = printed(fold_table(report, 80, every_node))

    assert all(line.isprintable() and len(line) <= 80 for line in lines)
    assert any("\\x1b[31mbn0\\n" in line for line in lines)
