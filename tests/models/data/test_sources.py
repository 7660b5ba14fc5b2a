from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.data.sources import find_source
from normfold.models.errors import DataError, TrainingWarning


def test_source_without_a_kind_is_taken_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/cats", "street/images", "street/masks"):
        Path(folder).mkdir(parents=True)
    wanted = {"a/churn.csv": "csv", "DATA.NPZ": "npz", "photos/": "images", "photos": "images", "street": "masks"}
    for source, kind in wanted.items():
        with pytest.warns(TrainingWarning, match=f"^Data '{source}' are read as '{kind}:{source}'.$"):
            assert find_source(source) == (kind, Path(source))
    assert find_source("images:street") == ("masks", Path("street"))
    assert find_source("images:photos") == ("images", Path("photos"))


def test_source_without_a_kind_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(30, 2)), y=np.arange(30) % 2)
    with pytest.warns(TrainingWarning, match="are read as 'npz:"):
        assert load_dataset(DataConfig(source=str(tmp_path / "rows.npz"))).input_shape == (2,)
    with (
        pytest.warns(TrainingWarning, match="are read as 'images:"),
        pytest.raises(DataError, match="There is no folder '.*absent'"),
    ):
        load_dataset(DataConfig(source=f"{tmp_path}/absent/", image_size=(2, 2)))
