from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normfold.contract import onnxruntime_package
from normfold.contract.errors import SetupError
from normfold.contract.onnxruntime_package import RuntimePackageError, require_onnxruntime


def pretend(monkeypatch: pytest.MonkeyPatch, installed: set[str], importable: bool) -> None:
    monkeypatch.setattr(onnxruntime_package, "_is_installed", lambda name: name in installed)
    monkeypatch.setattr(onnxruntime_package, "find_spec", lambda _: object() if importable else None)


@pytest.mark.parametrize("installed", [{"onnxruntime"}, {"onnxruntime-gpu"}, {"onnxruntime-openvino"}, set()])
def test_one_onnx_runtime_package_of_any_name_passes(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    pretend(monkeypatch, installed, importable=True)
    require_onnxruntime()


def test_missing_onnx_runtime_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, set(), importable=False)
    with pytest.raises(
        RuntimePackageError, match=r"pip install '\.\[cpu\]' \(or '\.\[gpu\]', '\.\[openvino\]'\)"
    ) as caught:
        require_onnxruntime()
    assert isinstance(caught.value, SetupError)
    assert caught.value.exit_code == 3


def test_two_onnx_runtimes_name_the_packages_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"onnxruntime", "onnxruntime-gpu"}, importable=True)
    with pytest.raises(RuntimePackageError, match="pip uninstall onnxruntime onnxruntime-gpu") as caught:
        require_onnxruntime()
    assert caught.value.installed == ("onnxruntime", "onnxruntime-gpu")


def test_openvino_package_counts_as_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"onnxruntime", "onnxruntime-openvino"}, importable=True)
    with pytest.raises(RuntimePackageError, match="both installed .* pip uninstall onnxruntime onnxruntime-openvino"):
        require_onnxruntime()


def test_installed_packages_are_read_from_their_metadata() -> None:
    assert onnxruntime_package._is_installed("pytest")
    assert not onnxruntime_package._is_installed("no-such-package-at-all")


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_unless_the_environment_sets_it(
    monkeypatch: pytest.MonkeyPatch, given: str | None, kept: str
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if given is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)

    require_onnxruntime()

    assert os.environ["ORT_DISABLE_TELEMETRY"] == kept
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")


@pytest.mark.slow
def test_serving_writes_nothing_into_the_home_folder(tmp_path: Path) -> None:
    """Where ONNX Runtime reports, it keeps a device's number there."""
    code = (
        "import sys; from pathlib import Path; from normfold.contract.onnxruntime_package import require_onnxruntime;"
        "require_onnxruntime();"
        "import onnxruntime, time; onnxruntime.SessionOptions(); time.sleep(1)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}

    subprocess.run([sys.executable, "-c", code], env=environment, check=True)

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
