"""What the setting `repository` may have meant, where its folder has no models."""

from __future__ import annotations

import difflib
from pathlib import Path

from normfold.contract.bundle import parse_version
from normfold.contract.manifest import MANIFEST_NAME


def hint_at_repository(root: Path) -> str:
    """Return a question that names a folder near one without models, or nothing.

    A model's own folder, or a version's, is meant to be the folder above; a wrong name one beside it that is like it.
    """
    near = _find_near(Path(root.absolute()))
    return "" if near is None else f" Did you mean {str(near)!r}?"


def _find_near(root: Path) -> Path | None:
    try:
        if (root / MANIFEST_NAME).is_file():
            return root.parent.parent
        if root.is_dir():
            return root.parent if any(map(_is_version, root.iterdir())) else None
        names = [path.name for path in root.parent.iterdir() if path.is_dir()]
    except OSError:
        return None
    alike = difflib.get_close_matches(root.name, names, 1)
    return root.parent / alike[0] if alike else None


def _is_version(folder: Path) -> bool:
    return parse_version(folder.name) is not None and (folder / MANIFEST_NAME).is_file()
