"""A loss and metrics of the user's own code, laid over those of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normfold.contract.errors import first_line
from normfold.models.errors import FunctionError
from normfold.models.tasks.task import Meter, Result, Task
from normfold.models.user_code import find_function

Function = Callable[[Tensor, Tensor], Any]


class OwnFunctions(Task):
    """A task with a loss or metrics of the user's own; all else is that of the task below."""

    def __init__(self, task: Task, loss: str | None, metrics: Sequence[str]) -> None:
        """Import the functions.

        Args:
            task: below.
            loss: module:function that returns a scalar tensor of outputs and targets; None: the task's.
            metrics: module:function each that returns a number of all outputs and targets, on the CPU, in units; the
                function's name is the metric's.

        Raises:
            FunctionError: there is no such function, or two metrics have one name.
        """
        self.task, self.name, self.metric = task, task.name, task.metric  # type: ignore[misc]
        self.loss_name = task.loss_name if loss is None else loss
        self._loss_name = loss
        self._loss: Function | None = None if loss is None else find_function(loss, "loss")
        self._metrics: dict[str, Function] = {}
        for name in metrics:
            short = name.rpartition(":")[2].replace(".", "_")
            if short in self._metrics:
                raise FunctionError(f"Two metrics are named {short!r}; give functions of different names.")
            self._metrics[short] = find_function(name, "metric")

    def output_shape(self, outputs: int, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the task below."""
        return self.task.output_shape(outputs, target_shape)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the user's loss, ().

        Raises:
            FunctionError: it fails, or returns something else than a scalar tensor.
        """
        if self._loss is None:
            return self.task.loss(outputs, y)
        found = _call(self._loss, f"`loss` {self._loss_name!r}", outputs, y)
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            shown = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise FunctionError(f"`loss` {self._loss_name!r} returned {shown}; it must return a tensor of one number.")
        return found.reshape(())

    def sums(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sums of the task below; the user's loss stands for its loss, times the count."""
        sums = self.task.sums(outputs, y)
        if self._loss is not None:
            sums[0] = self.loss(outputs.float(), y) * sums[2]
        return sums

    def of_sums(self, sums: Sequence[float]) -> Result:
        """Return the result of the task below; the loss is the user's."""
        found = self.task.of_sums(sums)
        return found if self._loss is None else Result(sums[0] / sums[2], found.metrics)

    def new_meter(self, *, is_final: bool = False) -> Meter:
        """Return a meter of the task below, with the user's loss and metrics."""
        return _OwnMeter(self, self.task.new_meter(is_final=is_final), self._metrics, self._loss is not None)

    def in_units(self, values: Tensor) -> Tensor:
        """Return those of the task below."""
        return self.task.in_units(values)

    def allowed_fall(self, score: float, rows: int) -> float:
        """Return that of the task below."""
        return self.task.allowed_fall(score, rows)


class _OwnMeter(Meter):
    def __init__(self, task: OwnFunctions, meter: Meter, metrics: Mapping[str, Function], has_loss: bool) -> None:
        self.task, self.meter, self.metrics, self.has_loss = task, meter, metrics, has_loss
        self.loss, self.rows = 0.0, 0
        self.batches: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tensor, y: Tensor) -> None:
        self.meter.update(outputs, y)
        if self.has_loss:
            self.loss += self.task.loss(outputs, y).item() * len(y)
            self.rows += len(y)
        if self.metrics:
            self.batches.append((self.task.in_units(outputs.cpu()), self.task.in_units(y.cpu())))

    def result(self) -> Result:
        found = self.meter.result()
        metrics = dict(found.metrics)
        if self.metrics:
            outputs, y = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
            for name, function in self.metrics.items():
                metrics[name] = _number(_call(function, f"`metric` {name!r}", outputs, y), name)
        return Result(self.loss / self.rows if self.has_loss else found.loss, metrics, found.confusion)


def _call(function: Function, what: str, outputs: Tensor, y: Tensor) -> Any:
    try:
        return function(outputs, y)
    except Exception as error:  # a user's function may raise anything
        reason = first_line(error, default="no message")
        shapes = f"outputs {list(outputs.shape)} and targets {list(y.shape)}"
        raise FunctionError(f"{what} failed on {shapes}: {type(error).__name__}: {reason}") from error


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise FunctionError(f"`metric` {name!r} returned {str(value)[:40]}; it must return a finite number.")
    return number
