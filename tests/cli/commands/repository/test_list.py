"""`normfold repository list`: what is shown of versions, of damaged ones, and of folders that are left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.bundles import BundleWriter, make_old
from tests.support.command import RunCommand, in_one_line


def test_list_shows_what_manifests_say(normfold: RunCommand, digits: BundleWriter) -> None:
    digits.rows()

    code, out, err = normfold("repository", "list")

    assert (code, err) == (0, "")
    size = sum(path.stat().st_size for path in (digits.root / "digits" / "2").iterdir())
    [row] = [line for line in out.splitlines() if line.startswith("digits/2")]
    assert row.split() == f"digits/2 2026-01-01 00:00 {size / 1000:.1f} kB 1 of 4 0.9916 convnet on digits".split()
    assert any(line.startswith("rows/1 ") for line in out.splitlines())
    assert "rows/1" not in normfold("repository", "list", "digits")[1]


def test_json_output_of_list(normfold: RunCommand, digits: BundleWriter) -> None:
    normfold("repository", "rollback", "digits")

    code, out, _ = normfold("repository", "list", "--json")

    assert code == 0
    [model] = json.loads(out)["models"]
    one, copy = model["versions"][0], model["versions"][-1]
    assert (one["version"], one["copy_of"], one["accuracy"], one["origin"]) == (1, None, 0.9916, "convnet on digits")
    assert (one["batchnorm_before"], one["batchnorm_after"], one["problem"]) == (4, 1, None)
    assert (copy["version"], copy["copy_of"]) == (4, 2)
    assert copy["bytes"] == sum(path.stat().st_size for path in (digits.root / "digits" / "4").iterdir())


def test_list_says_what_is_wrong_and_shows_the_rest(normfold: RunCommand, digits: BundleWriter, tmp_path: Path) -> None:
    model = digits.root / "digits"
    (model / "4").mkdir()
    shutil.copytree(model / "1", model / "5")
    shutil.copytree(model / "1", tmp_path / "elsewhere")
    (model / "6").symlink_to(tmp_path / "elsewhere")
    (model / "2" / "model.onnx").unlink()
    (model / "7.partial").mkdir()
    (model / "8.partial").mkdir()
    make_old(model / "8.partial")
    (model / "9.deleted").mkdir()
    (digits.root / "alias").symlink_to("digits")
    (digits.root / "outside").symlink_to(tmp_path)

    code, out, _ = normfold("repository", "list")

    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    expected = [
        f"alias: The folder {str(Path('model_repository/alias'))!r} is a symbolic link to the model 'digits', "
        "and is left alone.",
        "digits/2: The file 'model.onnx' cannot be read: No such file or directory.",
        "digits/4: The file 'manifest.json' cannot be read: No such file or directory.",
        "digits/5: The manifest is about 'digits/1', but lies in 'digits/5'.",
        "digits/6: It is a symbolic link that leaves the repository.",
        "digits/7.partial: It is being written, or was until less than an hour ago.",
        "digits/8.partial: An interrupted export left it behind; normfold repository prune removes it.",
        "digits/9.deleted: An interrupted deletion left it behind; normfold repository prune removes it.",
        "outside: The folder 'model_repository/outside' is a symbolic link that leaves the repository, "
        "and is left alone.",
    ]
    assert in_one_line(out).endswith(" ".join(expected))
    machine = json.loads(normfold("repository", "list", "--json")[1])["models"]
    assert [one["name"] for one in machine if one["problem"]] == ["alias", "outside"]
    assert [one["version"] for one in machine[1]["versions"] if one["problem"] is None] == [1, 3]


def test_list_fits_80_columns_and_loses_no_text(normfold: RunCommand, digits: BundleWriter) -> None:
    manifest = digits.root / "digits" / "2" / "manifest.json"
    changes = {
        "copy_of": 1,
        "adapted": {"from_version": 1, "samples": 64, "prior": 16.0},
        "precision": {
            "kind": "float16",
            "from_version": 1,
            "recipe": {},
            "proof": {"processor": "p", "rows": 4, "rows_from": "random", "outputs": {}, "size_ratio": 0.5},
        },
        "schema_version": 4,
    }
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))

    code, out, _ = normfold("repository", "list")

    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0
    assert all(0 < len(line) <= 80 for line in lines)
    [start] = [place for place, line in enumerate(lines) if line.startswith("digits/2")]
    row = [line for line in lines[start : start + 8] if line.startswith(("digits/2", " "))]
    column = lines[1].index("origin")
    origin = " ".join(line[column:] for line in row).split()
    assert origin == ["convnet", "on", "digits,", "adapted", "from", "1,", "converted", "from", "1,", "copy", "of", "1"]
    assert "float16" in row[0]


def test_empty_repository_is_listed_without_an_error(normfold: RunCommand, root: Path) -> None:
    root.mkdir()
    (root / "README").write_text("not a model")

    assert normfold("repository", "list")[:2] == (0, "There are no models in 'model_repository'.\n")
    assert json.loads(normfold("repository", "list", "--json")[1])["models"] == []


def test_repository_is_named_by_the_variable_of_the_service(
    normfold: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BundleWriter(tmp_path / "one").digits()
    BundleWriter(tmp_path / "two").rows()
    monkeypatch.setenv("NORMFOLD_REPOSITORY", str(tmp_path / "one"))

    assert "digits/1" in normfold("repository", "list")[1]
    assert "rows/1" in normfold("repository", "list", "--repository", "two")[1]
