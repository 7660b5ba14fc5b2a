"""The page of `normfold inspect` and its tables in the terminal: what they say, and that a model cannot speak there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.display.pages.line_layout import MAX_LINE_NODES, break_lines, find_blocks, live_values
from normfold.display.pages.markup import element, name, printable, shortened
from normfold.export.fold.report import Outcome
from tests.support.command import Page, RunCommand
from tests.support.onnx_models import batchnorm, model, small_convnet, statistics

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e&amp;"


Run = Callable[..., tuple[int, str, str]]


def mixed(names: Callable[[str], str] = str) -> onnx.ModelProto:
    """Make a network in which one BatchNormalization folds back, one forward, one is merged, and one stays."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name=names("conv1"), pads=[1, 1, 1, 1]),
        batchnorm("a", "b", "bn1"),
        helper.make_node("Relu", ["b"], ["c"], name=names("relu1")),
        helper.make_node("Conv", ["c", "w2"], ["d"], name=names("conv2"), pads=[1, 1, 1, 1]),
        batchnorm("d", "e", "bn2"),
        batchnorm("c", "f", "bn3"),
        helper.make_node("Add", ["e", "f"], ["g"], name=names("add")),
        helper.make_node("Relu", ["g"], ["h"], name=names("relu2")),
        batchnorm("h", "i", "bn4"),
        helper.make_node("Sigmoid", ["i"], ["j"], name=names("sigmoid")),
        helper.make_node("Softplus", ["j"], ["k"], name=names("softplus")),
        batchnorm("k", "l", "bn5"),
        helper.make_node("Flatten", ["l"], ["m"], name=names("flatten")),
        helper.make_node("Gemm", ["m", "v", "u"], ["y"], name=names("gemm")),
    ]
    constants = {"w1": rng.normal(size=(4, 4, 3, 3)), "w2": rng.normal(size=(4, 4, 3, 3))}
    constants |= {"v": rng.normal(size=(100, 3)), "u": rng.normal(size=3)}
    for node in nodes:
        if node.op_type == "BatchNormalization":
            constants |= statistics(rng, 4, node.name)
            node.name = names(node.name)
    constants = {key: array.astype(np.float32) for key, array in constants.items()}
    return model(nodes, {"x": ["n", 4, 5, 5]}, ["y"], constants, dtype=np.float32)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(mixed(), path)
    return path


def test_page_shows_the_outcome_of_each_batchnorm(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    code, out, err = normfold("inspect", "net.onnx", "--html", "page.html")

    assert (code, err) == (0, "")
    page = Page((tmp_path / "page.html").read_text())
    assert list(page.rows) == [f"bn-{number}" for number in range(1, 6)]
    report = json.loads(normfold("inspect", "net.onnx", "--json")[1])
    assert {entry["outcome"] for entry in report["entries"]} == {"folded back", "folded forward", "merged", "kept"}
    for text, entry in zip(page.rows.values(), report["entries"], strict=True):
        assert text.startswith(entry["node"] + entry["outcome"])
        assert (entry["reason"] or entry["into"]) in text
        assert (entry["reason_code"] or "") in text
    assert "4 of 5 BatchNormalization nodes can be folded" in page.text
    assert "Verified: the folded model computes the same." in page.text
    assert hashlib.sha256(net.read_bytes()).hexdigest() in page.text
    assert "n × 4 × 5 × 5" in page.text
    assert "equal" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "page.html"]


def test_page_loads_nothing_from_other_hosts(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    assert net.exists()
    normfold("inspect", "net.onnx", "--html", "page.html")

    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?:|//|@import|url\(", text)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert all(value.startswith("#") for value in page.values("href"))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")


def test_every_link_of_the_page_has_its_target(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    assert net.exists()
    normfold("inspect", "net.onnx", "--html", "page.html")

    page = Page((tmp_path / "page.html").read_text())
    identities = page.values("id")
    assert len(identities) == len(set(identities))
    assert len(page.values("href")) == 2 * 5
    assert {value[1:] for value in page.values("href")} | set(page.values("aria-labelledby")) <= set(identities)
    assert page.tags.count("caption") == page.tags.count("table")
    assert page.tags.count("h1") == 1


def test_the_drawing_has_a_mark_for_each_node(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    assert net.exists()
    normfold("inspect", "net.onnx", "--html", "page.html", "--no-verify")

    text = (tmp_path / "page.html").read_text()
    drawing = text[text.index('role="img"') : text.index("</svg>", text.index('role="img"'))]
    titles = re.findall(r"<(?:g|a)[^>]*><title>(.*?)</title>", drawing)
    assert len(titles) == 14
    assert "BatchNormalization bn1: folded back into conv1" in titles
    assert "Conv conv2: absorbs 2 BatchNormalization" in titles
    assert "Add add: not in the folded graph" in titles
    assert len([title for title in titles if ": kept (" in title]) == 1


def test_legend_describes_the_outcomes_that_the_graph_has(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    assert net.exists()
    normfold("inspect", "net.onnx", "--html", "page.html", "--no-verify")

    text = (tmp_path / "page.html").read_text()
    legend = text[text.index('class="legend"') : text.index('role="img"')]
    described = {outcome for outcome in Outcome if f"{outcome.value}: {outcome.description}</li>" in legend}
    assert described == {Outcome.FOLDED_BACK, Outcome.FOLDED_FORWARD, Outcome.MERGED, Outcome.KEPT}


def test_the_same_model_gives_the_same_page(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    assert net.exists()
    normfold("inspect", "net.onnx", "--html", "one.html")
    normfold("inspect", "net.onnx", "--html", "two.html")

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.parametrize("hostile", [HOSTILE, "x" * 5000, "line\nbreak\ttab\x01", "日本 {0} %s </style>", "] [bold]"])
def test_page_escapes_hostile_names_of_the_model(normfold: RunCommand, tmp_path: Path, hostile: str) -> None:
    proto = mixed(lambda name: f"{name} {hostile}")
    proto.graph.input[0].name = proto.graph.node[0].input[0] = f"x {hostile}"
    proto.producer_name = hostile
    onnx.save(proto, tmp_path / "net.onnx")
    onnx.save(mixed(), tmp_path / "plain.onnx")

    code, _, err = normfold("inspect", "net.onnx", "--html", "page.html")
    assert (code, err) == (0, "")
    normfold("inspect", "plain.onnx", "--html", "plain.html")

    text = (tmp_path / "page.html").read_text()
    page, plain = Page(text), Page((tmp_path / "plain.html").read_text())
    assert page.tags == plain.tags
    assert [(tag, key) for tag, key, _ in page.attributes] == [(tag, key) for tag, key, _ in plain.attributes]
    assert len(page.rows) == 5
    assert all(char.isprintable() or char == "\n" for char in text)
    assert len(text) < 100_000


def test_page_escapes_a_hostile_file_name(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    net.rename(tmp_path / "<b>&\udcff.onnx")

    assert normfold("inspect", "<b>&\udcff.onnx", "--html", "page.html", "--no-verify")[0] == 0
    assert "<h1>&lt;b&gt;&amp;\\udcff.onnx</h1>" in (tmp_path / "page.html").read_text()


def test_page_without_verification_says_so(normfold: RunCommand, net: Path, tmp_path: Path) -> None:
    assert net.exists()

    assert normfold("inspect", "net.onnx", "--html", "page.html", "--no-verify")[0] == 0
    text = Page((tmp_path / "page.html").read_text()).text
    assert "Not verified" in text
    assert "Verified" not in text


@pytest.mark.slow
def test_failed_verification_is_on_the_page_and_in_the_exit_code(
    normfold: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    monkeypatch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)

    code, out, err = normfold("inspect", "net.onnx", "--html", "page.html")

    assert code == 1
    assert "different" in out
    assert err == "error: 'net.onnx' does not compute the same when it is folded; 'page.html' shows by how much.\n"
    text = Page((tmp_path / "page.html").read_text()).text
    assert "The folded model does not compute the same." in text
    assert "Verified" not in text


def test_model_that_no_runtime_runs_gets_a_page_without_verification(normfold: RunCommand, tmp_path: Path) -> None:
    proto = mixed()
    proto.graph.node[9].domain = "of.somebody"
    proto.opset_import.append(helper.make_opsetid("of.somebody", 1))
    onnx.save(proto, tmp_path / "net.onnx")

    code, _, err = normfold("inspect", "net.onnx", "--html", "page.html")
    assert code == 2
    assert "--no-verify" in err
    assert not (tmp_path / "page.html").exists()
    assert normfold("inspect", "net.onnx", "--html", "page.html", "--no-verify")[0] == 0
    assert "of.somebody 1" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["net.onnx", "--html", "none/page.html"], 3, "Cannot write 'none/page.html': no such file or directory."),
        (["net.onnx", "--html", "net.onnx"], 2, "--html 'net.onnx' is the model itself"),
        (["none.onnx", "--html", "page.html"], 2, "'none.onnx' cannot be read"),
    ],
)
def test_page_or_model_that_cannot_be_written_or_read_is_an_error(
    normfold: RunCommand, net: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    before = net.read_bytes()

    found, out, err = normfold("inspect", *arguments)

    assert (found, out) == (code, "")
    assert err.startswith(f"error: {says}")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert net.read_bytes() == before


def test_a_page_of_a_model_without_batchnorm(normfold: RunCommand, tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"], {}, dtype=np.float32)
    onnx.save(proto, tmp_path / "relu.onnx")

    assert normfold("inspect", "relu.onnx", "--html", "page.html")[0] == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "There is no BatchNormalization in this model." in page.text
    assert not page.rows


def test_the_terminal_has_the_summary_first(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    code, out, _ = normfold("inspect", "net.onnx")

    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    kept = lines.index("1 kept: still in the graph")
    assert lines[kept + 1] == "1 gain-sign/operator"
    assert kept < lines.index("BatchNormalization outcome into, or why not")
    assert "bn5 folded forward gemm, through 1 node" in lines


@pytest.mark.slow
def test_time_is_measured_on_request(normfold: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert net.exists()
    monkeypatch.setattr("normfold.export.verify.timing.SECONDS", 0.0)

    assert re.search(r"A run takes [\d.]+ ms before and [\d.]+ ms after", normfold("inspect", "net.onnx", "--time")[1])
    record = json.loads(normfold("inspect", "net.onnx", "--time", "--json")[1])
    assert record["timing"]["runs"] >= 10
    assert record["size"]["before"]["nodes"] > record["size"]["after"]["nodes"]
    folded = json.loads(normfold("fold", "net.onnx", "out.onnx", "--time", "--json")[1])
    assert folded["timing"]["before_ms"] > 0
    assert folded["size"] == record["size"]
    assert "A run takes" in normfold("fold", "net.onnx", "out.onnx", "--time", "--force")[1]


def test_fold_lists_kept_nodes_and_on_request_all(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    kept, every = (normfold("fold", "net.onnx", "out.onnx", *options)[1] for options in ((), ("--nodes", "--force")))

    assert "bn4" in kept
    assert "bn5" not in kept
    assert all(f"bn{number}" in every for number in range(1, 6))
    assert "Nodes: 14 before, 9 after." in kept


def test_verification_of_two_models_states_the_floor(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    code, out, _ = normfold("verify", "net.onnx", "net.onnx")

    assert code == 0
    assert out.splitlines()[0].split()[-1] == "floor"
    record = json.loads(normfold("verify", "net.onnx", "net.onnx", "--json")[1])
    assert record["outputs"]["y"]["floor"] == 1e-6


def test_json_output_is_the_report_with_or_without_a_page(normfold: RunCommand, net: Path) -> None:
    assert net.exists()
    alone = normfold("inspect", "net.onnx", "--json")

    assert normfold("inspect", "net.onnx", "--json", "--html", "page.html") == alone
    assert set(json.loads(alone[1])) >= {"batchnorm_before", "batchnorm_after", "affines_folded", "entries", "warnings"}


def test_markup_escapes_what_is_not_markup() -> None:
    assert element("p", "<b>", element("i", "&"), None, title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert name("a<b") == "<code>a&lt;b</code>"
    assert printable("a\u202eb\x00") == "a\\u202eb\\x00"
    assert shortened("x" * 200, 11) == "xxxxx…xxxxx"


@pytest.mark.parametrize("count", [1, 2, 20, MAX_LINE_NODES, 42, 1000])
def test_lines_hold_each_node_once_and_split_no_block_that_fits(count: int) -> None:
    block = 7  # a residual block: every seventh node reads what stands before the block
    reads = [(index - 1,) if (index + 1) % block else (index - 1, index - block) for index in range(count)]
    live = live_values(reads)

    lines = break_lines([0] * (count - 1), live)

    assert [index for line in lines for index in line] == list(range(count))
    assert max(map(len, lines)) <= MAX_LINE_NODES
    assert all(line.start % block == 0 for line in lines)
    assert all(len(line) >= MAX_LINE_NODES // 2 for line in lines[:-1])


def test_lines_do_not_split_arcs_where_another_break_is_near() -> None:
    crossing_arcs = [int(30 <= gap <= 41) for gap in range(99)]

    assert not any(crossing_arcs[line.stop - 1] for line in break_lines(crossing_arcs, [1] * 99)[:-1])


def test_block_has_one_value_in_and_one_value_out() -> None:
    reads = [(-1,), (0,), (1,), (2,), (1, 3), (4,)]  # 2, 3 and 4 stand beside the value of 1

    assert find_blocks(live_values(reads)) == [range(2, 5)]
