"""The payload log: a sample of the answers with the tensors of request and answer, for labels that come later.

The event loop keeps references only; a thread encodes and writes. What comes faster than it writes is lost and counted.
"""

from __future__ import annotations

from functools import partial
from random import random

from normfold.service.errors import SettingsError
from normfold.service.lines.line_writer import LineWriter
from normfold.service.observability.payload_log.record import Answer, encode_record
from normfold.service.observability.payload_log.rotated_file import RotatedFile
from normfold.service.settings import Settings

FLUSH_BYTES = 2**20

MAX_PENDING_BYTES = 64 * 2**20
"""Bytes of tensors that wait to be written."""

_RECORD_BYTES = 1024
"""What a record takes besides its tensors, about."""


class PayloadLog:
    """Writes a sample of the answers.

    Args:
        file: of the lines.
        share: of the answers that is written, 0 to 1.
        redacted: names of inputs, outputs and parameters whose values are left out.
    """

    def __init__(self, file: RotatedFile, share: float, redacted: frozenset[str]) -> None:
        self._share, self._redacted = share, redacted
        self._writer = LineWriter(file, "The payload log", flush_bytes=FLUSH_BYTES, max_pending_bytes=MAX_PENDING_BYTES)

    def is_sampled(self) -> bool:
        """Return whether the next answer is to be written."""
        return random() < self._share

    def write(self, answer: Answer) -> None:
        """Add an answer; its arrays must not change later."""
        tensors = (*answer.inputs.values(), *answer.outputs.values())
        size = _RECORD_BYTES + sum(array.nbytes for array in tensors)
        self._writer.write(partial(encode_record, answer, self._redacted), size)

    def counts(self) -> dict[str, int]:
        """Return the number of answers that were written, and that were lost."""
        return {"written": self._writer.written_lines, "lost": self._writer.lost_lines}

    def close(self) -> None:
        """Wait until the answers are written, for a limited time."""
        self._writer.close()


def open_payload_file(settings: Settings) -> RotatedFile | None:
    """Open the file of the payload log; None if the settings name none.

    Raises:
        SettingsError: it cannot be written.
    """
    path = settings.payload_log
    if path is None:
        return None
    try:
        return RotatedFile(path, settings.payload_log_max_bytes, settings.payload_log_files)
    except OSError as error:
        raise SettingsError(f"The payload log {str(path)!r} cannot be written: {error.strerror}.") from None


def open_payload_log(settings: Settings) -> PayloadLog | None:
    """Return the payload log that the settings ask for.

    Raises:
        SettingsError: its file cannot be written.
    """
    file = open_payload_file(settings)
    return (
        None if file is None else PayloadLog(file, settings.payload_log_share, frozenset(settings.payload_log_redact))
    )
