"""Copy the files of swagger-ui-dist that the page at /docs loads into service/web/swagger_ui.

    python -m scripts.swagger_ui VERSION

`npm pack` fetches the package. swagger-ui-dist.json there has the version, the licence and the sha256 of each file.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from normfold.service.web.assets import SWAGGER_UI

PACKAGE = "swagger-ui-dist"
FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt", "LICENSE", "NOTICE")
FACTS = SWAGGER_UI / f"{PACKAGE}.json"


def main(version: str) -> None:
    """Replace the files by those of a version."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", folder, f"{PACKAGE}@{version}"],
            capture_output=True,
            text=True,
            check=True,
        )
        with tarfile.open(Path(folder) / done.stdout.strip()) as archive:
            contents = {name: _read(archive, name) for name in (*FILES, "package.json")}
    package = json.loads(contents.pop("package.json"))
    facts = {
        "name": PACKAGE,
        "version": package["version"],
        "license": package["license"],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    for name, content in contents.items():
        (SWAGGER_UI / name).write_bytes(content)
    FACTS.write_text(json.dumps(facts, indent=2) + "\n")


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    assert file is not None  # a plain file of the package
    return file.read()


if __name__ == "__main__":
    main(sys.argv[1])
