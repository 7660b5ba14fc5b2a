"""What remains on the screen after a training run: a line for each epoch, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from normfold.display.terminal import train_progress
from normfold.models.training.metrics import EpochMetrics

EPOCHS, STEPS = 12, 3


def metrics_of(epoch: int) -> EpochMetrics:
    splits = {"train": {"loss": 2.3456, "accuracy": 0.5}, "validation": {"loss": 1.2345, "accuracy": 0.98765}}
    return EpochMetrics(epoch=epoch, lr=0.1, seconds=1.0, **splits)


def screen(written: str) -> list[str]:
    """Return the lines of a terminal after these characters: it follows carriage returns, cursor up and erase."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b") and part != "\r":
            lines[row] += part
    return [line.rstrip() for line in lines]


def run_bar(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> list[str]:
    """Report a run of a few epochs, and return what the screen shows at the end."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, highlight=False, soft_wrap=True)
    monkeypatch.setattr(train_progress, "err", console)
    callback = train_progress.make_bar_callback()
    with callback.bar:
        callback.on_start(0, EPOCHS, STEPS)
        for epoch in range(1, EPOCHS + 1):
            for _ in range(STEPS):
                callback.on_step()
                callback.bar.refresh()
            callback.on_epoch(metrics_of(epoch))
    return screen(file.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_of_all_epochs_remain_after_a_run(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    lines = run_bar(monkeypatch, terminal=terminal)
    wanted = [train_progress.epoch_line(metrics_of(epoch), EPOCHS) for epoch in range(1, EPOCHS + 1)]
    assert [line for line in lines if "validation" in line] == wanted
    assert all(len(line) <= 80 for line in lines)
    bars = [line for line in lines if line and line not in wanted]
    assert len(bars) == (1 if terminal else 0)
    assert all(bar.startswith("epoch 12/12") and "36/36 steps" in bar for bar in bars)
