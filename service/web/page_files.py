"""The files of the page at /: ES modules and a style sheet, sent as they are.

Their address has a hash over all of them, so that a browser may keep them for ever, and a module gets the other modules
of the same version. `page/vendor/vendored.json` has package, version, licence and sha256 of those that are not ours.
"""

from __future__ import annotations

import hashlib

from normfold.service.web.assets import FOLDER, Asset

PAGE = FOLDER / "page"

_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

FILES = {
    path.relative_to(PAGE).as_posix(): Asset(path, _MEDIA_TYPES[path.suffix])
    for path in sorted(PAGE.rglob("*"))
    if path.suffix in _MEDIA_TYPES
}
"""By their names below /page/HASH/."""


def _hash_files() -> str:
    digest = hashlib.sha256()
    for name, asset in FILES.items():
        digest.update(name.encode() + b"\0" + asset.path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


HASH = _hash_files()
