from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from normfold.models.training.loop.threads import let_waiting_threads_sleep, use_threads
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "5"}, None)],
    ids=["unset", "policy", "count"],
)
def test_waiting_threads_sleep_unless_the_environment_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    let_waiting_threads_sleep()
    assert os.environ.get("OMP_WAIT_POLICY") == after
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.mark.slow
def test_training_sets_the_wait_policy_before_torch_is_imported() -> None:
    script = (
        "import os, sys, normfold\n"
        "try: normfold.train('run', data='none:here')\n"
        "except normfold.InputError: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "import normfold.models.training.loop.threads as threads\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY",)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "PASSIVE True\n", done.stderr


def test_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with use_threads(None):
        assert torch.get_num_threads() == before
