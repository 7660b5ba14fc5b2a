"""The commands that install Normfold, for error messages and the docs.

The name `normfold` is on no package index yet, so pip is given the clone that it is called in. A release changes
`REQUIREMENT` to "normfold" and `PLACE` to "".
"""

from __future__ import annotations

REQUIREMENT = "."
"""Requirement for pip: the clone, the path of a wheel, or a name on an index."""

PLACE = "in Normfold's clone"
"""Folder in which the command must be called, so that pip finds `REQUIREMENT`."""


def pip_install(*extras: str) -> str:
    """Return the command that installs Normfold with these extras, such as pip install '.[cpu,export]'."""
    return f"pip install {_quoted(*extras)}"


def how_to_install(extra: str, *others: str) -> str:
    """Return where and how to install an extra, for the end of a sentence.

    Args:
        extra: to install.
        others: that would do as well.
    """
    alternatives = f" (or {', '.join(map(_quoted, others))})" if others else ""
    return f"{PLACE} with: {pip_install(extra)}{alternatives}".strip()


def _quoted(*extras: str) -> str:
    return f"'{REQUIREMENT}[{','.join(extras)}]'"
