"""Editable installs of the one package `normfold`, whose subpackages are top-level folders of the repository.

A wheel copies `service/` to `normfold/service/` and so on, by the table `sources` in pyproject.toml. An editable
install has nothing to copy to: this hook puts a link for each of those folders into `normfold/`, so that the import
system, mypy and editors all find `normfold.service` where it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LinkSubpackages(BuildHookInterface):  # type: ignore[type-arg]
    """Link each folder of `sources` to its place below `normfold/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 -- the interface's
        """Make the links where the install is editable; a link that exists is replaced."""
        if version != "editable":
            return
        root = Path(self.root)
        for folder, place in self.build_config.target_config["sources"].items():
            link = root / place
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..") / folder, target_is_directory=True)
