"""`normfold.find_learning_rate`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normfold._shared.argument_checks import PATH, check, check_optional, describe
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath
from normfold._shared.progress import Progress
from normfold._train import DEFAULT_ARCH, PACKAGES, initial_weights, make_config
from normfold.errors import ArgumentError, LearningRateError
from normfold.models.training.loop.threads import let_waiting_threads_sleep

LISTS = frozenset({"freeze", "unit", "metric"})
"""Arguments that may be a text in place of a list of one."""


@dataclass(frozen=True, repr=False)
class LearningRateResult:
    """Result of a learning rate range test.

    Attributes:
        lr: suggested peak learning rate, at which the smoothed loss falls fastest.
        picture: PNG file of loss by learning rate.
        rates: learning rate of each step.
        losses: training loss of each step.
    """

    lr: float
    picture: Path
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def __repr__(self) -> str:
        return f"LearningRateResult(lr={self.lr:g}, picture={str(self.picture)!r})"

    def _repr_html_(self) -> str | None:
        """Return the picture for notebooks; None if the file is gone."""
        if not self.picture.is_file():
            return None
        image = b64encode(self.picture.read_bytes()).decode()
        return f'<img alt="Loss by learning rate" src="data:image/png;base64,{image}">'


def find_learning_rate(out: AnyPath, *, progress: Progress = False, **options: Any) -> LearningRateResult:
    """Train a new network for some steps while the learning rate rises, and suggest one; no run is begun.

    The suggestion is the rate at which the loss falls fastest: a peak for `train` with the same arguments.

    Example:
        >>> import normfold
        >>> normfold.find_learning_rate("runs/digits", data="digits")
        LearningRateResult(lr=0.0085, picture='runs/digits/learning-rate.png')

    Args:
        out: run folder of the run that is planned; the picture is written into it.
        progress: True or a function, as of `train`; a function is called with learning rate and loss of each step.
        options: other arguments of `train`; those of the schedule, and of what a run writes, have no effect.

    Raises:
        MissingPackageError: the extra `train` is not installed.
        ArgumentError: a value does not fit its argument, or `train` has no such argument.
        RunFolderError: `out` holds a run.
        LearningRateError: the loss falls at no learning rate; the picture is written.
        ConfigFileError, DataError, ArchitectureError, FreezingError, WeightsError, PrecisionError: as of `train`.
        OSError: the folder cannot be written.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    check(PATH, out=out)
    if "resume" in given:
        raise ArgumentError("`find_lr` tries a new network; leave out `resume`.")
    check_optional(PATH, config=given.get("config"), weights=given.get("weights"))
    require_packages(*PACKAGES, extra="train", needed_for="normfold train --find-lr")
    let_waiting_threads_sleep()
    from normfold.models.training.learning_rate.finder import HIGHEST, LOWEST, range_test
    from normfold.models.training.learning_rate.finder_plot import PICTURE_NAME, draw_range_test
    from normfold.models.training.outputs.config_file import read_config_file
    from normfold.models.training.run_folder import check_no_run

    folder = Path(out)
    check_no_run(folder)
    arch, file = given.pop("arch", None), given.pop("config", None)
    recorded = None if file is None else read_config_file(Path(file), arch or DEFAULT_ARCH)
    weights, key, prefix = (given.pop(name, None) for name in ("weights", "weights_key", "strip_prefix"))
    initial = initial_weights(weights, key, prefix, given.pop("partial", False), recorded)
    arguments, workers = given.pop("arguments", None), given.pop("workers", None)
    of_data, of_training = _sort(given)
    config, dataset = make_config(arch, arguments, of_data, of_training, recorded, initial, workers)

    def report(lr: float, loss: float) -> None:
        if callable(progress):
            progress(f"learning rate {lr:.1e}  loss {loss:.3f}")

    result = range_test(config, dataset, report)
    picture = folder / PICTURE_NAME
    draw_range_test(result, picture, config.title)
    if result.suggestion is None:
        raise LearningRateError(LOWEST, result.rates[-1] if result.rates else HIGHEST, picture)
    return LearningRateResult(result.suggestion, picture, result.rates, result.losses)


def _sort(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that are settings of the data, and those of the training."""
    from normfold.models.data.data import DataConfig
    from normfold.models.training.config import TrainConfig

    of_data, of_training = dict[str, Any](), dict[str, Any]()
    for argument, value in given.items():
        name = "source" if argument == "data" else argument
        part = of_data if name in DataConfig.model_fields else of_training
        if part is of_training and name not in {*TrainConfig.model_fields, "log"}:
            raise ArgumentError(f"`{argument}` is no argument of `train`; it is {describe(value)}.")
        if name == "image_size" and isinstance(value, int):
            part[name] = (value, value)
        elif name != "log":
            part[name] = (value,) if isinstance(value, str) and name in LISTS else value
    return of_data, of_training
