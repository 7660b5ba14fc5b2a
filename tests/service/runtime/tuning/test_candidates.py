"""The options that are tried, by provider, precision and the user's own options."""

from __future__ import annotations

import pytest

from normfold.contract.precision.record import PrecisionKind
from normfold.service.runtime.tuning.candidates import CANDIDATES, find_candidates

NHWC, TF32, FP16 = {"prefer_nhwc": "1"}, {"use_tf32": "1"}, {"trt_fp16_enable": "True"}


@pytest.mark.parametrize(
    ("provider", "precision", "users_options", "tf32", "found"),
    [
        ("cuda", PrecisionKind.FLOAT32, (), "auto", [NHWC, TF32]),
        ("cuda", PrecisionKind.INT8, (), "auto", [NHWC, TF32]),
        ("cuda", PrecisionKind.FLOAT16, (), "auto", [NHWC]),
        ("cuda", PrecisionKind.FLOAT32, (), "on", [NHWC]),
        ("cuda", PrecisionKind.FLOAT32, (), "off", [NHWC]),
        ("cuda", PrecisionKind.FLOAT32, ("prefer_nhwc", "gpu_mem_limit"), "auto", [TF32]),
        ("cuda", PrecisionKind.FLOAT32, ("use_tf32",), "auto", [NHWC]),
        ("tensorrt", PrecisionKind.FLOAT32, (), "auto", []),
        ("tensorrt", PrecisionKind.FLOAT16, (), "auto", [FP16]),
        ("tensorrt", PrecisionKind.FLOAT16, ("trt_fp16_enable",), "auto", []),
        ("openvino", PrecisionKind.FLOAT16, (), "auto", []),
        ("cpu", PrecisionKind.FLOAT16, (), "auto", []),
    ],
)
def test_candidates_depend_on_provider_precision_and_user(
    provider: str, precision: PrecisionKind, users_options: tuple[str, ...], tf32: str, found: list[dict[str, str]]
) -> None:
    assert find_candidates(provider, precision, users_options, tf32) == found


def test_candidates_of_an_accelerator_alone() -> None:
    assert {candidate.provider for candidate in CANDIDATES} == {"cuda", "tensorrt"}
