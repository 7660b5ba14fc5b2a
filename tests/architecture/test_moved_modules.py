"""Modules moved into folders once; their old paths stand nowhere, neither in code nor in documents."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MOVED = {
    "benchmarks": (
        "adapt double fold_exactness fold_families fold_growth fold_large fold_resnet50 fuzz_wire graphs "
        "node_cost pipelines serve_client serve_load serve_loop serve_networks serve_overload serve_reload "
        "serve_resnet18 serve_servers serve_small serve_soak serve_start serve_switch serve_targets "
        "serve_watch shift tell"
    ),
    "cli": (
        "adapt audit audit_tables export fold held_out inspect interrupt keys pages/audit_page pages/document "
        "pages/drawing pages/entries pages/facts pages/fold_page pages/histogram pages/markup pages/strip "
        "pages/study_page repository repository_tables serve statistics_table study_cost study_inference "
        "tables train train_config train_progress verify"
    ),
    "contract": ("kept norm_checks"),
    "export": (
        "activations affine apply batchnorm calibrate change constants cost difference editor elementwise "
        "feeds fold_file halves kernel layer merge monitor onnx_file operators/add operators/batchnorm "
        "operators/concat operators/conv operators/conv_transpose operators/depth_space operators/expand "
        "operators/gemm operators/identity operators/matmul operators/monotone operators/mul "
        "operators/normalisation operators/pad operators/pool operators/reduce operators/reshape "
        "operators/resize operators/select operators/split operators/table operators/transpose opsets pixels "
        "plan reestimate refusal removal report reserve rollback rows runner samples sequence shapes simplify "
        "skeleton spread staging statistics verify/difference versions"
    ),
    "models": (
        "audit audit_data audit_subject batchnorm/hooks batchnorm/recalibrate batches blocks checkpoint "
        "convnet curves data_files data_images densenet dropout_order files metrics "
        "mlp mobilenet norm_inputs onnx_graph onnx_trace optimise "
        "options preact_resnet processes reestimate registry reporter repvgg resnet resume run run_folder "
        "running_stats splits stem temporal to_onnx train train_config unet weights"
    ),
    "service": (
        "access answer batcher board body body_room bundle connection cors crew direct_body doors drain "
        "engine exchange http_errors idle infer jobs key_changes keyring keys large_answers large_json memory "
        "metrics middleware opening policy predict probe process_files processors protocol providers/cuda "
        "providers/openvino providers/placement providers/said providers/table providers/tensorrt "
        "providers/wish rate raw reservoir room routes/shift scan server session shift shift_store short_way "
        "spans state telemetry tensors tracing tuning watch wire"
    ),
}
"""The old paths by folder, without their ending."""

EXEMPT = frozenset({"CHANGELOG.md", "tests/architecture/test_moved_modules.py"})
"""Files that name old paths: the list of changes, and this one."""

SUFFIXES = frozenset({"", ".cfg", ".html", ".ipynb", ".json", ".md", ".py", ".toml", ".yaml", ".yml"})

_OLD = {
    folder: re.compile(
        rf"(?<![\w./-])(?:normfold[./])?{folder}(?:/(?:{names})\.py|\.(?:{names.replace('/', '.')}))(?![\w/(])"
    )
    for folder, listed in MOVED.items()
    for names in ["|".join(sorted(listed.split(), key=len, reverse=True))]
}


def find_old_paths(text: str) -> list[str]:
    """Return every old path in a text, written as a file or as a module."""
    return [match[0] for pattern in _OLD.values() for match in pattern.finditer(text)]


def tracked() -> list[Path]:
    """Return every text file of the repository; without git, every one below its folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.parts)]
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


@pytest.mark.slow
def test_no_file_names_a_module_that_moved() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): old
        for path in tracked()
        if path.relative_to(ROOT).as_posix() not in EXEMPT and (old := find_old_paths(path.read_text("utf-8")))
    }
    assert not found


def test_no_module_lies_at_an_old_path() -> None:
    old = [ROOT / folder / f"{name}.py" for folder, listed in MOVED.items() for name in listed.split()]
    assert not [path for path in old if path.exists()]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("from service.wire import parse", True),
        ("from normfold.service.wire import parse", True),
        ("see `service/wire.py`", True),
        ("`export.feeds.read`", True),
        ("normfold.service.codec.request", False),
        ("service.batching.batcher", False),
        ("service/wire/format.md", False),
        ("normfold.export.fold.fold", False),
    ],
)
def test_old_path_is_found_as_file_and_as_module(text: str, is_found: bool) -> None:
    assert bool(find_old_paths(text)) is is_found
