"""The learning rate's schedule in a run that is resumed with another number of epochs.

A schedule that has not ended is stretched, or shortened: it goes on from where it is, and ends in the new last epoch.
One that has ended begins anew over the epochs that are added: its rate, nearly 0 at the end, rises to the peak again,
as in warm restarts (Loshchilov & Hutter 2017, arXiv:1608.03983).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ScheduleStart(BaseModel):
    """Where a schedule began; the default is that of a run in one piece."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(default=0, description="Epochs done before it began.")
    fraction: float = Field(default=0.0, ge=0, lt=1, description="Of the whole schedule, done before it was stretched.")

    def position(self, epoch: int, index: int, steps_per_epoch: int, epochs: int) -> tuple[float, float]:
        """Return a step of the schedule, from 0, and the number of its steps.

        With e epochs done when it began at fraction f, and n steps in an epoch, steps = (epochs - e) n / (1 - f), and
            step = f * steps + (epoch - 1 - e) n + index
        which are whole numbers where f = 0.

        Args:
            epoch: from 1.
            index: of the step in the epoch, from 0.
            steps_per_epoch: n.
            epochs: of the whole run.
        """
        done = (epoch - 1 - self.epoch) * steps_per_epoch + index
        left = (epochs - self.epoch) * steps_per_epoch
        if self.fraction == 0:
            return done, left
        steps = left / (1 - self.fraction)
        return self.fraction * steps + done, steps

    def at(self, epoch: int, epochs: int) -> ScheduleStart:
        """Return where the schedule goes on with another number of epochs.

        Args:
            epoch: epochs done.
            epochs: of the whole run, before it got another number.
        """
        if epoch >= epochs:
            return ScheduleStart(epoch=epoch)
        done = (epoch - self.epoch) / (epochs - self.epoch)
        return ScheduleStart(epoch=epoch, fraction=self.fraction + (1 - self.fraction) * done)


def say_how_it_goes_on(start: ScheduleStart, epochs: int) -> str:
    """Return a sentence on the learning rate of a run that is resumed with another number of epochs.

    Args:
        start: of the schedule, from `ScheduleStart.at`.
        epochs: of the whole run, now.
    """
    if start.fraction == 0:
        return f"The learning rate begins a new schedule, from epoch {start.epoch + 1} to {epochs}."
    return f"The rest of the learning rate's schedule goes from epoch {start.epoch + 1} to {epochs}."
