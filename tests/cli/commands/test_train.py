from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from normfold import train
from normfold.cli.commands.train import train as train_command
from normfold.cli.main import app, main
from normfold.cli.signals import Terminated, exit_code, raise_on_sigterm
from normfold.models.architectures.registry import FACTORIES
from normfold.models.data.data import DataConfig
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.config import TrainConfig
from normfold.models.training.resume import read_progress
from tests.support.paths import ROOT

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Call `normfold train`; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    np.savez("rows.npz", x=rng.normal(size=(90, 4)) + 3 * y[:, None], y=y)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["normfold", "train", *arguments])
        with pytest.raises(SystemExit) as leave:
            main()
        captured = capsys.readouterr()
        return int(leave.value.code or 0), captured.out, captured.err

    return call


ROWS = ("--arch", "mlp", "--data", "npz:rows.npz", "--batch-size", "40", "--epochs", "2")


@pytest.mark.slow
def test_defaults_train_a_convnet_on_digits(run: Run) -> None:
    code, out, err = run("--out", "runs/digits", "--epochs", "5", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["accuracy"] > 0.95
    assert (record["arch"], record["data"], record["checkpoint"]) == ("convnet", "digits", "runs/digits")
    assert (record["epochs"], record["seconds"] > 0) == (5, True)
    assert err.count("epoch ") == 5


@pytest.mark.slow
def test_result_is_a_short_table_and_progress_goes_to_standard_error(run: Run) -> None:
    code, out, err = run("--out", "r", *ROWS, "--arg", "widths=[8]")
    assert code == 0
    assert "test accuracy" in out
    assert "epoch 1/2" not in out
    assert "epoch 1/2" in err
    assert json.loads(Path("r/config.json").read_text())["architecture"]["options"] == {"widths": [8]}


@pytest.mark.slow
def test_run_is_resumed_with_its_own_settings_and_never_overwritten(run: Run) -> None:
    assert run("--out", "r", *ROWS)[0] == 0
    before = Path("r/weights.safetensors").read_bytes()
    code, _, err = run("--out", "r", *ROWS)
    assert (code, "holds a run already" in err, "--resume" in err) == (2, True, True)
    assert run("--out", "r", "--resume")[0] == 0
    assert run("--out", "r", "--resume", *ROWS)[0] == 0
    code, _, err = run("--out", "r", "--resume", "--lr", "0.5")
    assert code == 2
    assert "was trained with lr=None, not 0.5" in err
    assert Path("r/weights.safetensors").read_bytes() == before


@pytest.mark.slow
def test_interruption_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.models.training.train import train_one_epoch

    assert run("--out", "whole", *ROWS)[0] == 0

    def stop_in_second(*arguments: Any, **options: Any) -> Any:
        if next(one for one in arguments if isinstance(one, int)) == 2:  # the epoch
            raise KeyboardInterrupt
        return train_one_epoch(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("normfold.models.training.train.train_one_epoch", stop_in_second)
        code, _, err = run("--out", "r", *ROWS)
    assert code == 130
    assert err.endswith("Interrupted; resume after the last finished epoch with: normfold train --out r --resume\n")
    assert run("--out", "r", "--resume")[0] == 0
    assert Path("r/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--arch", "vgg"], 2, "Unknown architecture 'vgg'; choose from mlp, convnet"),
        (["--arch", "json:net"], 2, "has no function 'net'"),
        (["--arch", "mlp", "--arg", "width=3"], 2, "'mlp' has no option 'width'"),
        (["--data", "iris"], 2, "Unknown data 'iris'"),
        (["--data", "csv:bad.csv", "--missing", "refuse"], 2, "Row 3 of 'bad.csv' has no value in column 'b'"),
        (["--data", "images:pictures", "--image-size", "8x8"], 2, "at least two classes; found only 'cats'"),
        (["--image-size", "8x"], 2, "--image-size '8x' is not HEIGHTxWIDTH or one number"),
        (["--image-size", "9" * 5000 + "x8"], 2, "is not HEIGHTxWIDTH or one number"),
        (["--data", "images:two", "--image-size", "99999999x99999999"], 2, "1 to 4096 pixels a side, not to 99999999x"),
        (["--data", "csv:huge.csv"], 2, "Row 3 of 'huge.csv' has '1e300' in column 'b', which is not a finite float32"),
        (["--epochs", "0"], 2, "--epochs must be greater than 0, not 0."),
        (["--batch-size", "1"], 2, "--batch-size must be greater than or equal to 2, not 1."),
        (["--lr", "-1"], 2, "--lr must be greater than 0, not -1.0."),
        (["--lr", "1e308"], 2, "--lr must be less than or equal to 1e+30, not 1e+308."),
        (["--out", "a" * 300], 3, "cannot be written: File name too long."),
        (["--out", "a" * 300, "--resume"], 3, "cannot be written: File name too long."),
        (["--lr", "inf"], 2, "--lr must be a finite number, not inf."),
        (["--weight-decay", "nan"], 2, "--weight-decay must be a finite number, not nan."),
        (["--label-smoothing", "2"], 2, "--label-smoothing must be less than 1, not 2.0."),
        (["--patience", "0"], 2, "--patience must be greater than 0, not 0."),
        (["--clip-norm", "0"], 2, "--clip-norm must be greater than 0, not 0.0."),
        (["--seed", "-1"], 2, "--seed must be greater than or equal to 0, not -1."),
        (["--split-seed", "-1"], 2, "--split-seed must be greater than or equal to 0, not -1."),
        (["--channels", "2"], 2, "--channels must be 1 or 3, not 2."),
        (["--optimizer", "lion"], 2, "--optimizer must be 'adamw' or 'sgd', not 'lion'."),
        (["--precision", "int8"], 2, "--precision must be 'fp32', 'bf16' or 'fp16', not 'int8'."),
        (["--test-fraction", "1"], 2, "--test-fraction must be less than 1, not 1.0."),
        (["--test-fraction", "0.95"], 2, "leave no training rows"),
        (
            ["--test-fraction", ".9", "--validation-fraction", ".5"],
            2,
            "error: --validation-fraction 0.5 and --test-fraction 0.9 leave no training rows; "
            "together they must be less than 1.\n",
        ),
        (["--arch", "mlp", "--arg", "dropout=NaN"], 2, "Option 'dropout' holds NaN or infinity"),
        (["--resume"], 2, "holds no run to resume"),
        (["--schedule", "linear"], 2, "--schedule must be 'one-cycle', 'cosine', 'step' or 'constant', not 'linear'."),
        (["--warmup-fraction", "1"], 2, "--warmup-fraction must be less than 1, not 1.0."),
        (["--accumulate", "0"], 2, "--accumulate must be greater than 0, not 0."),
        (["--ema", "1"], 2, "--ema must be less than 1, not 1.0."),
        (["--keep", "0"], 2, "--keep must be greater than 0, not 0."),
        (["--threads", "0"], 2, "--threads must be greater than 0, not 0."),
        (["--log", "wandb"], 2, "--log must be tensorboard or mlflow, not 'wandb'."),
        (["--config", "none.yaml"], 2, "'none.yaml' cannot be read: No such file or directory."),
        (["--config", "bad.csv"], 2, "'bad.csv' is neither a run folder nor a file .yaml, .yml or .json."),
        (["--config", "none.yaml", "--resume"], 2, "--config is for a new run; a run that is resumed has its own"),
        (["--find-lr", "--resume"], 2, "--find-lr tries a new network; leave out --resume."),
        (["--find-lr", "--epochs", "0"], 2, "--epochs must be greater than 0, not 0."),
        ([*ROWS, "--channels-last"], 2, "--channels-last is for images and volumes; these samples have the shape [4]."),
        ([*ROWS, "--optimizer", "sgd", "--lr", "1e30"], 1, "in epoch 1; try a lower --lr"),
    ],
)
def test_bad_input_is_one_sentence_with_its_exit_code(run: Run, arguments: list[str], code: int, message: str) -> None:
    Path("bad.csv").write_text("a,b,y\n1,2,x\n1,,y\n")
    Path("huge.csv").write_text("a,b,y\n1,2,x\n1,1e300,y\n")
    for folder in ("pictures/cats", "two/cats", "two/dogs"):
        Path(folder).mkdir(parents=True)
    got, out, err = run("--out", "r", *arguments)
    assert got == code
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not Path("r/config.json").exists()


@pytest.mark.slow
def test_find_lr_suggests_a_rate_and_begins_no_run(run: Run) -> None:
    code, out, _ = run("--out", "r", *ROWS, "--find-lr", "--json")
    record = json.loads(out)
    assert code == 0
    assert 1e-6 < record["lr"] < 10
    assert [str(path) for path in Path("r").iterdir()] == [record["picture"]] == ["r/learning-rate.png"]
    assert run("--out", "r", *ROWS, "--lr", str(record["lr"]))[0] == 0
    assert (run("--out", "r", *ROWS, "--find-lr")[0], Path("r/weights.safetensors").exists()) == (2, True)


@pytest.mark.slow
def test_result_says_whether_its_weights_are_averaged(run: Run) -> None:
    code, out, _ = run("--out", "r", *ROWS, "--ema", "0.5", "--keep", "1")
    averaged = json.loads(Path("r/config.json").read_text())["averaged"]
    assert (code, "of averaged weights" in out) == (0, averaged)
    assert averaged or "of weights that are not averaged" in out
    assert json.loads(Path("r/epochs/list.json").read_text())["kept"][0]["averaged"] is averaged


@pytest.mark.slow
def test_small_batches_warn_in_a_sentence(run: Run) -> None:
    code, _, err = run("--out", "r", *ROWS, "--batch-size", "8")
    assert code == 0
    assert "warning: BatchNorm computes its statistics over 8 rows" in err


def test_folder_that_cannot_be_written_is_of_the_environment(run: Run) -> None:
    Path("file").write_text("")
    code, _, err = run("--out", "file/r", *ROWS)
    assert code == 3
    assert "cannot be written" in err


@pytest.mark.slow
def test_full_disk_before_a_checkpoint_can_be_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        code, _, err = run("--out", "runs/r", *ROWS)
    assert (code, err) == (3, "error: 'runs/r/metrics.jsonl' cannot be written: No space left on device.\n")
    assert not Path("runs").exists()
    assert run("--out", "runs/r", *ROWS)[0] == 0


@pytest.mark.slow
def test_full_disk_after_a_checkpoint_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.models.training.resume import save_state

    def full_later(folder: Path, progress: Any, *more: Any) -> None:
        if progress.epoch == 2:
            raise OSError(28, "No space left on device", str(folder / "resume"))
        save_state(folder, progress, *more)

    with monkeypatch.context() as patch:
        patch.setattr("normfold.models.training.run.save_state", full_later)
        code, _, err = run("--out", "r", *ROWS)
    assert code == 3
    advice = "when this is fixed, resume after the last finished epoch with: normfold train --out r --resume\n"
    assert err.endswith(f"error: 'r/resume' cannot be written: No space left on device; {advice}")
    assert run("--out", "r", "--resume")[0] == 0


@pytest.mark.slow
def test_sigterm_ends_a_run_as_ctrl_c_does(run: Run, tmp_path: Path) -> None:
    assert callable(run)  # makes the data
    command = [sys.executable, "-m", "normfold", "train", "--out", "my run", *ROWS[:-1], "100000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 3/"):
                break
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # as timeout does: to the process and to its group
        rest = process.stderr.read()
    assert process.returncode == 143
    assert "Traceback" not in rest
    assert rest.endswith(
        "Interrupted; resume after the last finished epoch with: normfold train --out 'my run' --resume\n"
    )
    assert {entry.name for entry in Path("my run").rglob("*")} == {
        *("weights.safetensors", "config.json", "metrics.jsonl", "batchnorm.jsonl", "resume", "state.safetensors")
    }
    load_checkpoint(Path("my run"))
    assert read_progress(Path("my run")).epoch >= 3


def test_sigterm_is_handled_once_and_its_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, raise_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_second_sigterm_disturbs_no_clean_up() -> None:
    cleaned = False

    def run_and_clean_up() -> None:
        nonlocal cleaned
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned = True

    with pytest.raises(Terminated), raise_on_sigterm():
        run_and_clean_up()
    assert cleaned


def test_missing_extra_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "normfold._shared.packages.find_spec", lambda name: None if name == "sklearn" else find_spec(name)
    )
    code, _, err = run("--out", "r")
    assert code == 3
    assert (
        "normfold train needs the package 'sklearn'; install it in Normfold's clone with: pip install '.[train]'" in err
    )


def test_help_has_an_example_and_the_true_defaults(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "normfold train --arch convnet --data digits --out runs/digits" in out
    group = typer.main.get_command(app)
    parameters = vars(group)["commands"]["train"].params
    helps = {parameter.name: getattr(parameter, "help", "") for parameter in parameters}
    for config in (TrainConfig(), DataConfig()):
        for name, value in config.model_dump(exclude={"source"}).items():
            if value not in (None, ()) and name in helps and name != "lr":
                assert f"[default: {'no' if value is False else value}]" in helps[name]
    assert f"[default: {TrainConfig().peak_lr}; sgd {TrainConfig(optimizer='sgd').peak_lr}]" in helps["lr"]
    assert len(out.splitlines()) <= 110


@pytest.mark.parametrize(
    ("function", "listed"),
    [(train_command, r"Architectures: (.*?)\.\n"), (train, r"arch: (.*?); or module:factory")],
    ids=["command", "api"],
)
def test_help_and_docstring_list_every_registered_architecture(function: Callable[..., Any], listed: str) -> None:
    found = re.search(listed, function.__doc__ or "", re.DOTALL)
    assert found is not None
    assert {name.split()[0] for name in re.split("[,;]", found[1])} == set(FACTORIES)
