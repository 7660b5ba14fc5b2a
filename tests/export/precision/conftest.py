"""Time ratios of few rounds: tests do not look at them."""

from __future__ import annotations

import pytest

from normfold.export.quantize.proof import time_ratio


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    monkeypatch.setattr(time_ratio, "MIN_RUN_S", 0.0)
    monkeypatch.setattr(time_ratio, "MIN_ROUNDS", 1)
