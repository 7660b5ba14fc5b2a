"""Options of one run: it logs nothing, and another thread may cancel it."""

from __future__ import annotations

from typing import Any

_FATAL = 4
"""ONNX Runtime's severity above errors."""


def quiet_options() -> Any:
    """Return options of a run that logs nothing: its errors are raised as exceptions."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


class Cancel:
    """Stops one run between two of its nodes; `set` may be called from another thread."""

    def __init__(self) -> None:
        self._options: Any = None
        self.is_set = False

    def set(self) -> None:
        """Stop the run; if it has not started, it will stop at its first node."""
        self.is_set = True
        if self._options is not None:
            self._options.terminate = True

    def run_options(self) -> Any:
        """Return ONNX Runtime's options for the run; call it once, since the options stay terminated."""
        self._options = quiet_options()
        if self.is_set:
            self._options.terminate = True
        return self._options
