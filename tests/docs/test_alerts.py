"""Every command of the page on alerts works as it is written, against a service that runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from normfold.service.auth.key_admin import create_key
from tests.support.bundles import BundleWriter, publish_version
from tests.support.command import SCRIPT, environment_without_settings, serving
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.waiting import wait_for, wait_until_ready

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "alerts.md"

ELSEWHERE = ("nvidia-smi", "dmesg", "docker", "kubectl", "promtool")
"""Commands that need a GPU, the kernel's log, another machine's programs, or that another test runs."""

_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:normfold|curl|jq|grep) [^`\s]+\s[^`]+)`")


def commands() -> list[str]:
    """Return the commands of the page, in its order, each once."""
    found: list[tuple[int, str]] = []
    text = PAGE.read_text()
    for block in _BLOCK.finditer(text):
        found += [(block.start(), line.strip()) for line in block[1].splitlines() if line.strip()]
    found += [(inline.start(), inline[1].replace("\n ", "")) for inline in _INLINE.finditer(text)]
    lines = [re.sub(r"\s+#.*$", "", line) for _, line in sorted(found)]
    return list(dict.fromkeys(line for line in lines if not line.startswith(ELSEWHERE)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the page names: a service at $URL, its repository, keys and logs."""
    folder = tmp_path_factory.mktemp("night")
    bundles = BundleWriter(folder / "FOLDER")
    bundles.root.mkdir()
    for version in (1, 2, 3):
        publish_version(bundles, version)
    (bundles.root / "digits").rename(bundles.root / "NAME")
    for version in (1, 2, 3):
        bundles.change_manifest(bundles.root / "NAME" / str(version), name="NAME")
    shutil.copytree(bundles.root, folder / "BACKUP")
    shutil.move(folder / "BACKUP" / "NAME" / "1", folder / "BACKUP" / "NAME" / "VERSION")
    _, sent = create_key(folder / "keys.json", "busy", ("infer",), rate=0.001, burst=1)
    options = ("--keys", str(folder / "keys.json"), "--access-log", str(folder / "access.log"))
    with serving(bundles.root, *options) as (process, client):  # it leaves the logs
        wait_until_ready(client)
        for _ in range(3):
            client.post("/v2/models/NAME/infer", json=PICTURE, headers={"X-API-Key": sent})
        wait_for(lambda: (folder / "access.log").read_text().count("\n") >= 3)
        process.terminate()
        log = process.communicate(timeout=20)[1]
    error = json.dumps({"level": "error", "message": "planted", "request_id": "x"})
    (folder / "service.log").write_text(f"{log}{error}\n")
    with serving(bundles.root, "--log-level", "warning", NORMFOLD_MODEL_CONTROL="explicit") as (_, client):
        wait_until_ready(client)
        assert client.post("/v2/repository/models/NAME/load").status_code == 200
        (folder / "url").write_text(str(client.base_url).rstrip("/"))
        yield folder


@pytest.mark.slow
def test_every_command_of_the_page_on_alerts_works(folder: Path) -> None:
    url = (folder / "url").read_text()
    script = f"normfold() {{ {sys.executable} -c '{SCRIPT}' \"$@\"; }}\nset -o pipefail\n"
    outputs = {}
    for command in commands():
        line = re.sub(r"\bNAME VERSION\b", "NAME 1", command)
        line = re.sub(r"--rate N\b", "--rate 5", line.replace("keys create NAME", "keys create another"))
        if "repository delete" in line:
            line += " --yes"  # it asks, at a terminal
        done = subprocess.run(
            ["bash", "-c", script + line.replace("curl ", "curl --silent --show-error --fail ")],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment_without_settings(URL=url),
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        outputs[command] = done.stdout
    assert len(outputs) >= 15
    silent = [command for command, output in outputs.items() if not output]
    assert silent == ["jq 'select(.ms > 500)' access.log", "jq 'select(.status == 500)' access.log"]
    [by_key] = [output for command, output in outputs.items() if "429" in command]
    assert by_key.split() == ["2", "busy"]
    assert "as exported, 0 not." in next(output for command, output in outputs.items() if "check NAME" in command)


@pytest.mark.slow
def test_load_that_the_page_names_is_a_route(folder: Path) -> None:
    paths = re.findall(r"`(GET|POST) (/[^`]+)`", PAGE.read_text())
    assert paths
    with open_client((folder / "url").read_text()) as client:
        for method, path in paths:
            assert client.request(method, path).status_code == 200, path
