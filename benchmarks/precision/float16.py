"""float16: signal to noise as a GPU would compute it, size of the file, and overflow that is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.precision import large
from benchmarks.precision.bars import Bar, caught
from benchmarks.precision.digits import KEPT, data_config, trained
from benchmarks.precision.spread import spread_channels
from benchmarks.progress import show_progress
from normfold.export.errors import Float16OverflowError
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.models.data.data import load_dataset

MIN_SQNR_DB = 55.0
MAX_SIZE = 0.53
"""Half, and what nodes, names and shapes take: 3 % of the smallest network here."""
LARGE_ROWS = 4

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Half:
    """One network in float16, of one seed."""

    network: str
    seed: int
    sqnr_db: float
    size: float


def measure_digits(networks: list[str], seeds: list[int]) -> Iterator[Half]:
    """Yield the figures of the digits networks, as trained and with spread channels, on the test split."""
    for network in networks:
        dataset = load_dataset(data_config(network))
        test = dataset.tensors(dataset.splits.test)
        for seed in seeds:
            source = trained(network, seed, dataset)
            wide = source.with_suffix(".spread.onnx")
            spread_channels(source, wide, np.random.default_rng(seed))
            for name, path in ((network, source), (f"{network}, spread", wide)):
                yield _converted(name, seed, path, test)


def measure_large(networks: list[str]) -> Iterator[Half]:
    """Yield the figures of the larger networks, on standard normal rows."""
    rows = np.random.default_rng(1).standard_normal((LARGE_ROWS, *large.SHAPE), np.float32)
    for network in networks:
        yield _converted(network, 0, large.written(network), rows)


def bars(found: list[Half]) -> list[Bar]:
    """Return the bars of the means over the seeds of each network."""
    made = []
    for network in dict.fromkeys(each.network for each in found):
        group = [each for each in found if each.network == network]
        sqnr, size = (float(np.mean([getattr(each, name) for each in group])) for name in ("sqnr_db", "size"))
        made += [
            Bar(f"{network}, float16", "SQNR, dB", sqnr, minimum=MIN_SQNR_DB),
            Bar(f"{network}, float16", "size / float32", size, maximum=MAX_SIZE),
        ]
    return made


def bar_of_overflow() -> Bar:
    """Return whether an activation beyond 65504 between two layers is refused by its name."""
    folder = KEPT / "overflow"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    constants = {"first": rng.normal(size=(8, 4, 1, 1)) * 1e4, "second": rng.normal(size=(3, 8, 1, 1)) / 1e4}
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["between"], name="layer"),
        helper.make_node("Conv", ["between", "second"], ["output"], name="reader"),
    ]
    infos = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", channels, 6, 6])
        for name, channels in (("input", 4), ("output", 3))
    ]
    initializers = [numpy_helper.from_array(each.astype(np.float32), name) for name, each in constants.items()]
    graph = helper.make_graph(nodes, "overflow", infos[:1], infos[1:], initializers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "network.onnx"
    )
    try:
        rows = 10 * rng.standard_normal((8, 4, 6, 6), np.float32)
        convert_to_float16(folder / "network.onnx", folder / "float16.onnx", inputs={"input": rows})
        is_named = False
    except Float16OverflowError as error:
        is_named = error.value == "between"
    return caught("float16", "overflow is named", is_named)


def _converted(network: str, seed: int, source: Path, rows: Float32Array) -> Half:
    show_progress(f"{network}, seed {seed}, float16")
    folded, target = source.with_suffix(".folded.onnx"), source.with_suffix(".float16.onnx")
    model = load_model(source)
    fold(model)
    save_model(model, folded)
    result = convert_to_float16(folded, target, inputs={"input": rows})
    return Half(network, seed, min(result.sqnr_db.values()), target.stat().st_size / folded.stat().st_size)
