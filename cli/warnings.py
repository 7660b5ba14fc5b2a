"""Normfold's own warnings, printed as sentences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from normfold.cli.option_names import in_options
from normfold.display.terminal.console import warn
from normfold.display.terminal.train_progress import is_main_process


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Print Normfold's own warnings as one sentence each, any others as Python does."""
    from normfold.models.errors import NormfoldWarning

    show = warnings.showwarning

    def show_sentence(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, NormfoldWarning):
            show(message, category, filename, lineno, file, line)
        elif is_main_process():
            warn(in_options(str(message)))

    with warnings.catch_warnings():
        warnings.showwarning = show_sentence
        warnings.simplefilter("always", NormfoldWarning)
        yield
