"""Bundles that tests write: right ones and wrong ones, and whole repositories."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, Monitor, MonitoredLayer
from normfold.contract.manifest import FoldSummary, Manifest, TensorSpec, sha256_of
from normfold.contract.preprocess import ImagePreprocessing, RowPreprocessing
from normfold.contract.record import to_json
from normfold.contract.source_card import SourceCard
from normfold.service.drift.score import WindowSums
from tests.support.onnx_models import small_convnet

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    **{name: getattr(TensorProto, name) for name in ("INT8", "INT16", "INT32", "INT64")},
    **{name: getattr(TensorProto, name) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
LABELS = ("zero", "one", "two")
TRITON_TENSORS = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4, 5, 5 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
"""
TRITON_CONFIG = f'platform: "onnxruntime_onnx" max_batch_size: 8 {TRITON_TENSORS}'
"""The config.pbtxt of what `TritonWriter` writes."""

DIGITS = ImagePreprocessing(channels=1, height=4, width=4, value_max=16, mean=(0.25,), std=(0.5,))
ROWS = RowPreprocessing(columns=("age", "income"), mean=(40.0, 1e9), std=(10.0, 5.0))


@dataclass
class BundleWriter:
    """Writes bundles into a repository, right ones and wrong ones."""

    root: Path

    def write(
        self,
        name: str,
        version: int,
        nodes: list[onnx.NodeProto],
        inputs: list[TensorSpec],
        outputs: list[TensorSpec],
        initializers: dict[str, np.ndarray] | None = None,
        batchable: bool = True,
        card: SourceCard | None = None,
        **changes: Any,
    ) -> Path:
        """Write NAME/VERSION/ and return it; `changes` replace fields of the manifest."""
        folder = self.root / name / str(version)
        folder.mkdir(parents=True)
        graph = helper.make_graph(
            nodes,
            name,
            [_value(spec) for spec in inputs],
            [_value(spec) for spec in outputs],
            [numpy_helper.from_array(array, key) for key, array in (initializers or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, folder / "model.onnx")
        card = card or SourceCard()
        manifest = Manifest(
            schema_version=card.schema_version,
            name=name,
            version=version,
            created="2026-01-01T00:00:00Z",
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            batchable=batchable,
            opset=18,
            card=card,
            fold=FoldSummary(batchnorm_before=0, batchnorm_after=0),
            verification={},
            versions={},
            files={"model.onnx": sha256_of(folder / "model.onnx")},
        )
        (folder / "manifest.json").write_text(to_json(manifest.model_copy(update=changes)))
        return folder

    def digits(
        self, version: int = 1, name: str = "digits", bias: float | Sequence[float] = 0.0, **changes: Any
    ) -> Path:
        """A classifier of 4 × 4 grey pictures: the logits are the sums over three columns, and a bias.

        With a bias for each class the version may choose another class than one without.
        """
        weight = np.zeros((16, 3), np.float32)
        for column in range(3):
            weight[column::4, column] = 1
        return self.write(
            name,
            version,
            [
                helper.make_node("Flatten", ["input"], ["flat"]),
                helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
            ],
            [TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 4, 4))],
            [TensorSpec(name="logits", datatype="FP32", shape=(-1, 3))],
            {"weight": weight, "bias": np.full(3, bias, np.float32)},
            **{"card": SourceCard(preprocessing=DIGITS, labels=LABELS, logits=("logits",)), **changes},
        )

    def pixels(self, name: str = "pixels") -> Path:
        """As `digits`, but of 8-bit pixels that the network standardises itself."""
        weight = np.zeros((16, 3), np.float32)
        for column in range(3):
            weight[column::4, column] = 1 / (255 * DIGITS.std[0])
        return self.write(
            name,
            1,
            [
                helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("Flatten", ["float"], ["flat"]),
                helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
            ],
            [TensorSpec(name="input", datatype="UINT8", shape=(-1, 1, 4, 4))],
            [TensorSpec(name="logits", datatype="FP32", shape=(-1, 3))],
            {"weight": weight, "bias": np.full(3, -4 * DIGITS.mean[0] / DIGITS.std[0], np.float32)},
            card=SourceCard(preprocessing=DIGITS, labels=LABELS, logits=("logits",)),
            takes_pixels=True,
        )

    def rows(self, name: str = "rows") -> Path:
        """A network that gives back its two columns, standardised."""
        return self.write(
            name,
            1,
            [helper.make_node("Identity", ["input"], ["output"])],
            [TensorSpec(name="input", datatype="FP32", shape=(-1, 2))],
            [TensorSpec(name="output", datatype="FP32", shape=(-1, 2))],
            card=SourceCard(preprocessing=ROWS),
        )

    def pair(self, name: str = "pair") -> Path:
        """Two inputs of different types, two outputs: their product as FP64, and the flag turned round."""
        return self.write(
            name,
            1,
            [
                helper.make_node("Cast", ["count"], ["wide"], to=TensorProto.DOUBLE),
                helper.make_node("ReduceSum", ["wide", "axes"], ["product"], keepdims=0),
                helper.make_node("Not", ["flag"], ["opposite"]),
            ],
            [
                TensorSpec(name="count", datatype="INT64", shape=(-1, 2)),
                TensorSpec(name="flag", datatype="BOOL", shape=(-1,)),
            ],
            [
                TensorSpec(name="product", datatype="FP64", shape=(-1,)),
                TensorSpec(name="opposite", datatype="BOOL", shape=(-1,)),
            ],
            {"axes": np.array([1], np.int64)},
        )

    def identity(
        self, datatype: str, name: str | None = None, shape: tuple[int, ...] = (-1, -1), **changes: Any
    ) -> Path:
        """A network that gives back what it takes."""
        return self.write(
            name or f"identity-{datatype.lower()}",
            1,
            [helper.make_node("Identity", ["input"], ["output"])],
            [TensorSpec(name="input", datatype=datatype, shape=shape)],
            [TensorSpec(name="output", datatype=datatype, shape=shape)],
            **changes,
        )

    def one_by_one(self, name: str = "one-by-one") -> Path:
        """A network whose rows are not independent: each is divided by the sum over all rows."""
        return self.write(
            name,
            1,
            [
                helper.make_node("ReduceSum", ["input"], ["total"], keepdims=1),
                helper.make_node("Div", ["input", "total"], ["output"]),
            ],
            [TensorSpec(name="input", datatype="FP32", shape=(-1, 1))],
            [TensorSpec(name="output", datatype="FP32", shape=(-1, 1))],
            batchable=False,
        )

    def add_drift_monitor(self, folder: Path) -> None:
        """Add a drift monitor of the 16 pixels to a bundle of `digits`; in training they had mean 0 and variance 1."""
        nodes = [
            helper.make_node("Flatten", ["input"], ["means"]),
            helper.make_node("Mul", ["means", "means"], ["squares"]),
        ]
        graph = helper.make_graph(
            nodes,
            "monitor",
            [_value(TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 4, 4)))],
            [_value(TensorSpec(name=name, datatype="FP32", shape=(-1, 16))) for name in ("means", "squares")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, folder / MONITOR_NAME)
        layer = MonitoredLayer(node="pixels", means="means", squares="squares", variances=(1.0,) * 16, threshold=0.5)
        (folder / MONITOR_CARD_NAME).write_text(to_json(Monitor(window_rows=4, layers=(layer,))))
        files = json.loads((folder / "manifest.json").read_text())["files"]
        added = {name: sha256_of(folder / name) for name in (MONITOR_NAME, MONITOR_CARD_NAME)}
        self.change_manifest(folder, files=files | added)

    def change_manifest(self, folder: Path, **changes: Any) -> None:
        """Overwrite fields of a written manifest, unchecked."""
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@dataclass
class TritonWriter:
    """Writes models into a Triton repository: `small_convnet`, x (n, 4, 5, 5) to y (n, 3); each version has its own."""

    root: Path

    def write(
        self,
        name: str,
        config: str | None = TRITON_CONFIG,
        versions: tuple[int, ...] = (1,),
        batch: str | int = "n",
        file: str = "model.onnx",
        external: bool = False,
    ) -> Path:
        """Write NAME/ and return it; without a `config` there is no config.pbtxt, and no label file."""
        folder = self.root / name
        folder.mkdir(parents=True)
        for version in versions:
            path = folder / str(version) / file
            path.parent.mkdir(parents=True)
            proto = small_convnet(np.random.default_rng(version), batch)
            options: dict[str, Any] = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 256}
            onnx.save(proto, path, **(options if external else {}))
        if config is not None:
            (folder / "config.pbtxt").write_text(config)
            (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
        return folder


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = [f"free{axis}" if size == -1 else size for axis, size in enumerate(spec.shape)]
    return helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.datatype], shape)


def publish_version(bundles: BundleWriter, version: int, **changes: Any) -> Path:
    """Move a complete version of `digits` into the repository, as an export does; its logits are its number.

    Args:
        bundles: of the repository.
        version: number of the version, and bias of its logits.
        changes: replace fields of the manifest.

    Returns:
        The folder of the version.
    """
    outside = BundleWriter(bundles.root.parent / f"aside{version}")
    outside.root.mkdir()
    made = outside.digits(version, bias=float(version), **changes)
    target = bundles.root / "digits" / str(version)
    target.parent.mkdir(exist_ok=True)
    return Path(shutil.move(made, target))


def version_names(root: Path, name: str = "digits") -> list[str]:
    """Return the names of a model's folders in a repository, in order."""
    return sorted(path.name for path in (root / name).iterdir())


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return what every file below a folder holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def statistics_of_bundle(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean and variance of the layer `bn` of a bundle's unfolded model."""
    found = {each.name: numpy_helper.to_array(each) for each in onnx.load(folder / "unfolded.onnx").graph.initializer}
    return found["bn.mean"], found["bn.var"]


def make_old(folder: Path, seconds: float = 7200) -> None:
    """Let a folder and its files seem to have been written some time ago."""
    then = time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


TWO_CHANNEL_MONITOR = Monitor(
    window_rows=50, layers=(MonitoredLayer(node="bn", means="m", squares="s", variances=(1.0, 1.0)),)
)
"""The monitor of one layer with two channels."""


def drift_sums(rows: int) -> WindowSums:
    """Return the sums of TWO_CHANNEL_MONITOR over so many equal rows."""
    sums = WindowSums.of(TWO_CHANNEL_MONITOR)
    for _ in range(rows):
        sums.add_request([(np.ones((1, 2)), np.ones((1, 2)))], 50)
    return sums
