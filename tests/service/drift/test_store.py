"""State of drift monitoring on disk: over a restart, among processes, and with damaged files."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from normfold.contract.drift.monitor import Monitor
from normfold.service.drift.process_files import ProcessFiles
from normfold.service.drift.store import DriftStore, read_sums
from tests.support.bundles import TWO_CHANNEL_MONITOR, drift_sums
from tests.support.paths import ROOT

Open = Callable[[Path], DriftStore]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open a store that is closed behind the test."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(closing(store_in(folder)))


def store_in(folder: Path) -> DriftStore:
    """Return the store of a process."""
    return DriftStore(ProcessFiles(folder), TWO_CHANNEL_MONITOR)


def test_sums_of_an_ended_process_are_adopted_once(tmp_path: Path, opened: Open) -> None:
    first = store_in(tmp_path)
    first.adopt()
    first.save(drift_sums(30))
    first.close()

    second, third = opened(tmp_path), opened(tmp_path)
    taken, left = second.adopt(), third.adopt()

    assert taken.rows == 30
    assert left.rows == 0
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_processes_with_the_same_id_have_their_own_files() -> None:
    """In a container each start has the number 1."""
    code = (
        "import os; os.getpid = lambda: 1; from pathlib import Path;"
        "from normfold.service.drift.process_files import ProcessFiles;"
        "print(ProcessFiles(Path()).own('.npz'))"
    )
    names = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT).stdout for _ in range(2)
    }

    assert len(names) == 2


def test_sums_of_living_processes_are_read_and_kept(tmp_path: Path, opened: Open) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.adopt()
    one.save(drift_sums(30))

    assert other.adopt().rows == 0
    assert [sums.rows for sums in other.read_others()] == [30]


@pytest.mark.slow
def test_sums_of_a_killed_process_are_adopted(tmp_path: Path, opened: Open) -> None:
    code = (
        "import os, sys; from pathlib import Path; from normfold.service.drift.store import DriftStore;"
        "from normfold.service.drift.process_files import ProcessFiles;"
        "from tests.support.bundles import TWO_CHANNEL_MONITOR; from tests.support.bundles import drift_sums;"
        "store = DriftStore(ProcessFiles(Path(sys.argv[1])), TWO_CHANNEL_MONITOR);"
        "store.adopt(); store.save(drift_sums(20)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=ROOT)

    assert opened(tmp_path).adopt().rows == 20


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"PK\x05\x06"])
def test_damaged_file_of_sums_is_ignored(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1-0.npz"
    path.write_bytes(content)

    assert read_sums(path, TWO_CHANNEL_MONITOR) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": np.array([np.nan, 0.0])},
        {"counts": np.array([-1, 0])},
        {"weights": np.array([np.inf, 1.0])},
        {"weights": np.array([1.0, 2.0])},
        {"weights": np.array(["a", "b"])},
        {"means0": np.array([np.nan, 0.0])},
        {"means0": np.array(["a", "b"])},
        {"squares0": np.ones(3)},
    ],
)
def test_implausible_file_of_sums_is_ignored(tmp_path: Path, opened: Open, wrong: dict[str, np.ndarray]) -> None:
    first = store_in(tmp_path)
    first.adopt()
    first.save(drift_sums(30))
    first.close()
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **wrong})

    assert opened(tmp_path).adopt().rows == 0
    assert not path.exists()


def test_unreadable_file_of_sums_is_kept(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "1.npz").mkdir()
    (tmp_path / "1.lock").touch()

    assert opened(tmp_path).adopt().rows == 0
    assert (tmp_path / "1.npz").exists()


def test_adopted_sums_are_saved_before_the_old_files_are_deleted(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store_in(tmp_path)
    first.adopt()
    first.save(drift_sums(30))
    first.close()
    (old,) = tmp_path.glob("*.npz")
    found: list[int] = []

    def unlink(path: Path, **_: bool) -> None:
        if path == old:
            found.extend(sums.rows for sums in watcher.read_others() if sums.rows)

    watcher = store_in(tmp_path)
    monkeypatch.setattr(Path, "unlink", unlink)
    opened(tmp_path).adopt()

    assert found == [30, 30]  # for a moment both


def test_closed_store_writes_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.adopt()
    store.save(drift_sums(30))
    store.close()

    store.save(drift_sums(3))

    assert [sums.rows for sums in store_in(tmp_path).read_others()] == [30]


def test_partial_files_of_killed_processes_are_deleted(tmp_path: Path, opened: Open) -> None:
    for name in ("1-0.new", "1-0.new-samples", "1-0.lock"):
        (tmp_path / name).touch()

    opened(tmp_path).adopt()

    assert not list(tmp_path.glob("1-0.*"))


def test_sums_of_another_monitor_are_ignored(tmp_path: Path, opened: Open) -> None:
    store = opened(tmp_path)
    store.adopt()
    (layer,) = TWO_CHANNEL_MONITOR.layers
    other = Monitor(window_rows=50, layers=(layer.model_copy(update={"variances": (1.0,)}),))

    (path,) = tmp_path.glob("*.npz")

    assert read_sums(path, TWO_CHANNEL_MONITOR) is not None
    assert read_sums(path, other) is None


def test_unwritable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = store_in(tmp_path / "file" / "folder")

    with caplog.at_level(logging.ERROR):
        assert store.adopt().rows == 0
        store.save(drift_sums(3))

    assert len(caplog.records) == 1
    assert "cannot be saved" in caplog.text
