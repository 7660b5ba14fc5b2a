"""The tutorials: each script runs as a reader would run it, and page and notebook show that script and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.docs_notebooks import TUTORIALS, included_sections, make_notebook, names, sections, to_text

TIMEOUT_S = 300

RUN_CELLS = """
import json, sys
namespace = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
"""


def run_python(folder: Path, *arguments: str) -> str:
    """Run Python in a folder of its own and return its output; end whatever it leaves running."""
    log = folder / "output.txt"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NORMFOLD_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment | {"OMP_NUM_THREADS": "1"},  # networks this small gain nothing by threads
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(TIMEOUT_S)
            left = _is_group_alive(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert status == 0, text
    assert not left, f"A process of the tutorial is still running.\n{text}"
    return text


def _is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_tutorials_are_the_four_that_the_index_lists() -> None:
    index = (TUTORIALS / "index.md").read_text()

    assert len(names()) == 4
    assert all(f"({name}.md)" in index for name in names())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - {"pictures"}))  # its notebook runs, cell by cell the same code
def test_script_of_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    output = run_python(tmp_path, str(TUTORIALS / f"{name}.py"))

    assert "Traceback" not in output


@pytest.mark.slow
def test_code_cells_of_the_first_notebook_run(tmp_path: Path) -> None:
    output = run_python(tmp_path, "-c", RUN_CELLS, str(TUTORIALS / "pictures.ipynb"))

    assert "Traceback" not in output


@pytest.mark.parametrize("name", names())
def test_page_includes_every_section_of_its_script_in_order(name: str) -> None:
    script = sections((TUTORIALS / f"{name}.py").read_text())

    assert included_sections((TUTORIALS / f"{name}.md").read_text()) == list(script)
    assert all(script.values())


@pytest.mark.parametrize("name", names())
def test_page_has_no_python_beside_its_script(name: str) -> None:
    assert "```python" not in (TUTORIALS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", names())
def test_notebook_is_the_one_that_page_and_script_make(name: str) -> None:
    written = (TUTORIALS / f"{name}.ipynb").read_text()

    assert written == to_text(make_notebook(name)), "Run: make notebooks"


def test_notebook_has_the_code_of_the_script_in_code_cells_only() -> None:
    notebook = json.loads((TUTORIALS / "pictures.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert code == list(sections((TUTORIALS / "pictures.py").read_text()).values())
    assert not any("literalinclude" in "".join(cell["source"]) for cell in notebook["cells"])
