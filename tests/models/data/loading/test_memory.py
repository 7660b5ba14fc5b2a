"""Memory of a run whose images stay in their files does not grow with their number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = """
import re, sys, warnings
from pathlib import Path
import torch
from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training.checkpoint import make_run_config
from normfold.models.training.config import TrainConfig
from normfold.models.statistics import recalibrate
from normfold.models.training import evaluate
from normfold.models.training.train import fit
# Rows that run at a time: these limits are for larger data than a test can have.
recalibrate.MAX_VALUES, evaluate.MAX_VALUES = 2**20, 2**20
warnings.simplefilter("ignore")
torch.set_num_threads(1)
folder, in_memory = Path(sys.argv[1]), sys.argv[2] == "held"
data = DataConfig(source=f"images:{folder}", image_size=(192, 192), in_memory=in_memory)
dataset = load_dataset(data, 0)
options = {"widths": [2], "blocks_per_stage": 1}
config = make_run_config("convnet", options, data, dataset, TrainConfig(epochs=1, batch_size=8))
fit(config, dataset, folder.parent / f"run-{folder.name}-{sys.argv[2]}")
recalibrate_run(folder.parent / f"run-{folder.name}-{sys.argv[2]}")
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""

MIB = 2**10
"""In KiB, the unit of VmHWM; ru_maxrss would begin with the memory of the process that starts this one."""

IMAGE_BYTES = 3 * 192 * 192 * 4


def peak(folder: Path, how: str) -> int:
    """Return the largest memory, in KiB, of a process that trains on a folder and recalibrates."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), how], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def write(folder: Path, count: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3)).astype(np.uint8)
    for number in range(count):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number % 2]).save(folder / "ab"[number % 2] / f"{number}.png")
    return folder


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="it reads Linux's /proc")
def test_memory_of_training_from_files_does_not_grow_with_the_images(tmp_path: Path) -> None:
    few, many = write(tmp_path / "few", 60), write(tmp_path / "many", 360)
    from_files = peak(many, "files")
    added = 300 * IMAGE_BYTES // 2**10  # 127 MiB of decoded images
    assert from_files - peak(few, "files") < 16 * MIB
    assert peak(many, "held") - from_files > 0.8 * added  # what is measured is their memory
