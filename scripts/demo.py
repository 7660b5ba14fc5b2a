"""From training to served predictions, on handwritten digits: `make demo`.

Runs the commands of a user, sends test digits to the service by its three routes, and compares each response with the
trained network's predictions in torch. Writes build/demo.json. The service is stopped in any case.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.data.data import Dataset, load_dataset
from normfold.models.training.checkpoint import Checkpoint

BUILD = Path("build")
RUN, REPOSITORY, NAME = BUILD / "demo" / "run", BUILD / "demo" / "model_repository", "digits"
PICTURE = BUILD / "demo" / "digit.png"
NORMFOLD = [sys.executable, "-m", "normfold"]
SHOWN = 8
"""Number of digits sent one by one to :predict and :classify; all test digits are sent to infer."""
READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 10.0
TOLERANCE = 1e-4
"""Largest allowed difference between a served logit and torch's, relative to the largest logit."""

console = Console(highlight=False)


class DemoError(Exception):
    """A step of the demo failed, or a response is wrong."""


def main() -> None:
    """Run the demo; exit with 1 and one sentence if a step fails or a response is wrong."""
    shutil.rmtree(BUILD / "demo", ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    trained, train_s = run("train", "--arch", "convnet", "--data", "digits", "--out", str(RUN))
    exported, export_s = run("export", str(RUN), "--repository", str(REPOSITORY), "--name", NAME)
    checkpoint = recalibrate_run(RUN).checkpoint  # as it was exported, in torch
    assert checkpoint.config.data is not None  # a run of normfold train records its data
    dataset = load_dataset(checkpoint.config.data)
    with service() as (url, service_ready_s):
        answers = ask(url, checkpoint, dataset)
    (verification,) = exported["verification"]["outputs"].values()
    record = {
        "accuracy": answers["accuracy"],
        "batchnorm_before": exported["fold"]["batchnorm_before"],
        "batchnorm_after": exported["fold"]["batchnorm_after"],
        "verify_error": verification["error"],
        "verify_noise": verification["noise"],
        "predictions": answers["predictions"],
        "labels": answers["labels"],
        "train_s": round(train_s, 2),
        "export_s": round(export_s, 2),
        "service_ready_s": round(service_ready_s, 2),
    }
    (BUILD / "demo.json").write_text(json.dumps(record, indent=2) + "\n")
    show(record, answers, trained)


def run(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run a normfold command with visible progress; return its JSON output and its seconds."""
    console.print(f"$ normfold {' '.join(arguments)}", style="bold")
    started = time.perf_counter()
    done = subprocess.run([*NORMFOLD, *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise DemoError(f"normfold {arguments[0]} exited with {done.returncode}.")
    return json.loads(done.stdout), time.perf_counter() - started


@contextlib.contextmanager
def service() -> Iterator[tuple[str, float]]:
    """Run `normfold serve` on a free port; yield its URL and the seconds until it was ready; stop it at the end."""
    arguments = ["serve", "--repository", str(REPOSITORY), "--port", "0", "--log-level", "warning"]
    console.print(f"$ normfold {' '.join(arguments)}", style="bold")
    started = time.perf_counter()
    process = subprocess.Popen([*NORMFOLD, *arguments, "--json"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise DemoError(f"normfold serve exited with {process.wait()}.")
        url = json.loads(line)["url"]
        wait_until_ready(url, started)
        yield url, time.perf_counter() - started
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url: str, started: float) -> None:
    """Poll until the service is ready; while it loads, it responds with an error at once."""
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=READY_WITHIN_S):
                return
        except urllib.error.HTTPError as error:
            if time.perf_counter() - started > READY_WITHIN_S:
                raise DemoError(f"The service is not ready: {error.read().decode()}") from None
            time.sleep(0.01)


def ask(url: str, checkpoint: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """Send test digits by every route, and compare each response with torch's predictions."""
    rows = dataset.splits.test
    tensors = dataset.tensors(rows)
    expected = logits_of(checkpoint, tensors)

    served = infer(url, tensors)
    difference = float(np.abs(served - expected).max() / np.abs(expected).max())
    if difference > TOLERANCE:
        raise DemoError(f"Served logits differ from torch's by {difference:.2g} of the largest.")
    predictions = served.argmax(axis=1)
    require_equal("infer", predictions, expected.argmax(axis=1))

    few = rows[:SHOWN]
    raw = dataset.x[few]
    instances = [{"instances": [one.tolist()]} for one in raw]
    predicted = [post(f"{url}/v1/models/{NAME}:predict", instance)["predictions"][0] for instance in instances]
    require_equal(":predict", np.array([answer["index"] for answer in predicted]), expected.argmax(axis=1)[:SHOWN])

    pictures = [png(one[0]) for one in raw]
    PICTURE.write_bytes(pictures[0])
    classified = [post(f"{url}/v1/models/{NAME}:classify", picture)["classes"][0] for picture in pictures]
    seen = np.stack([dataset.preprocessing.standardise(decode(dataset, picture)) for picture in pictures])
    own = logits_of(checkpoint, seen).argmax(axis=1)
    require_equal(":classify", np.array([answer["index"] for answer in classified]), own)

    return {
        "accuracy": float((predictions == dataset.y[rows]).mean()),
        "predictions": [dataset.labels[index] for index in predictions],
        "labels": [dataset.labels[index] for index in dataset.y[rows]],
        "predict": predicted,
        "classify": classified,
        "difference": difference,
    }


def logits_of(checkpoint: Checkpoint, tensors: np.ndarray) -> np.ndarray:
    """Return the trained network's logits in torch, (N, 10), for tensors (N, 1, 8, 8)."""
    with torch.inference_mode():
        logits: np.ndarray = checkpoint.network(torch.from_numpy(tensors)).numpy()
    return logits


def infer(url: str, tensors: np.ndarray) -> np.ndarray:
    """Send tensors by the Open Inference Protocol; return the logits."""
    request = {
        "inputs": [
            {"name": "input", "datatype": "FP32", "shape": list(tensors.shape), "data": tensors.ravel().tolist()}
        ]
    }
    (output,) = post(f"{url}/v2/models/{NAME}/infer", request)["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def post(url: str, body: dict[str, Any] | bytes) -> dict[str, Any]:
    """Send JSON or a PNG file; return the JSON of the response."""
    data, kind = (body, "image/png") if isinstance(body, bytes) else (json.dumps(body).encode(), "application/json")
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=READY_WITHIN_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise DemoError(f"{url} answered {error.code}: {error.read().decode()}") from None


def png(digit: np.ndarray) -> bytes:
    """Return a digit with values 0 to 16 as an 8-bit PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.round(digit * (255 / 16)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def decode(dataset: Dataset, picture: bytes) -> np.ndarray:
    """Decode a PNG file as the service does."""
    assert dataset.preprocessing.kind == "image"
    return dataset.preprocessing.decode_image(picture)


def require_equal(route: str, served: np.ndarray, own: np.ndarray) -> None:
    """Check that served predictions equal the network's."""
    if not np.array_equal(served, own):
        raise DemoError(f"{int((served != own).sum())} predictions by {route} differ from the network's.")


def show(record: dict[str, Any], answers: dict[str, Any], trained: dict[str, Any]) -> None:
    """Print the results."""
    table = Table("digit", ":predict", ":classify (PNG)", "infer", title="Test digits over REST", title_justify="left")
    for label, by_infer, by_predict, by_classify in zip(
        record["labels"], record["predictions"], answers["predict"], answers["classify"], strict=False
    ):
        table.add_row(
            label, *(f"{each['label']}  {each['probability']:.2f}" for each in (by_predict, by_classify)), by_infer
        )
    console.print(table)
    correct = sum(wanted == got for wanted, got in zip(record["labels"], record["predictions"], strict=True))
    console.print(
        f"accuracy {record['accuracy']:.4f} ({correct} of {len(record['labels'])} test digits), "
        f"in torch {trained['accuracy']:.4f}; every served prediction equals the network's\n"
        f"BatchNormalization: {record['batchnorm_before']} before and {record['batchnorm_after']} after the fold; "
        f"error {record['verify_error']:.1e}, rounding noise {record['verify_noise']:.1e}\n"
        f"trained in {record['train_s']} s, exported in {record['export_s']} s, "
        f"ready in {record['service_ready_s']} s; the record is {BUILD / 'demo.json'}\n"
    )
    console.print(
        f"Serve it yourself, and in another terminal classify {PICTURE}, a {record['labels'][0]}:\n"
        f"    {Path(sys.executable).parent / 'normfold'} serve --repository {REPOSITORY}\n"
        f"    curl --data-binary @{PICTURE} localhost:8000/v1/models/{NAME}:classify",
        soft_wrap=True,
    )


if __name__ == "__main__":
    try:
        main()
    except DemoError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise SystemExit(1) from None
