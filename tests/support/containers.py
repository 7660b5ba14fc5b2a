"""A container engine's command lines, and a service that runs in a container."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.paths import ROOT

IMAGE, BASE = "normfold", "python:3.11-slim-bookworm"
PROJECT = "normfold-test"
PORT = 18080


@dataclass(frozen=True)
class Engine:
    """A container engine's command lines."""

    container: list[str]
    compose: list[str]
    environment: dict[str, str]

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 120) -> str:
        """Run a command of the engine; return what it printed."""
        return self._run([*self.container, *arguments], check, timeout)

    def make(self, target: str, *options: str, timeout: float = 1500) -> str:
        """Run one of our own make targets with this engine."""
        return self._run(["make", "--no-print-directory", target, *options], True, timeout)

    def on_compose(self, *arguments: str, timeout: float = 300) -> str:
        """Run a command of compose."""
        return self._run([*self.compose, *arguments], True, timeout)

    def size_mb(self, image: str) -> float:
        """Return the size of an image; a build may have used its base without keeping it."""
        if not self("images", "--quiet", image, check=False).split():
            self("pull", image, timeout=600)
        return float(self.inspect(image)["Size"]) / 1e6

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine knows of a container or an image."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found

    def health_check(self, image: str) -> list[str]:
        """Return the command that tells whether the image's container is healthy."""
        found = self.inspect(image)
        check = found["Config"].get("Healthcheck") or found["Healthcheck"]  # Docker's place for it, and podman's
        assert check["Test"][0] == "CMD"
        command: list[str] = check["Test"][1:]
        return command

    def start(self, *options: str, command: tuple[str, ...] = ()) -> str:
        """Start the service's image, unprivileged as compose would; return the container's id."""
        unprivileged = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        if self.container[0].endswith("podman"):
            unprivileged.append("--read-only-tmpfs=false")  # podman leaves /tmp writable, Docker does not
        return self("run", "--detach", *unprivileged, *options, IMAGE, *command).split()[-1]

    def _run(self, command: list[str], check: bool, timeout: float) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{shlex.join(command)} left with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


@dataclass(frozen=True)
class Stack:
    """What `make up` started.

    Attributes:
        url: the service's, as published.
        container: the id of the service's container.
        volume: with the repository.
    """

    url: str
    container: str
    volume: str


def wait_until_ready(url: str, within_s: float = 30) -> float:
    """Return the seconds after which the service was ready."""
    begun = time.monotonic()
    while time.monotonic() < begun + within_s:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):
                return time.monotonic() - begun
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.01)
    raise AssertionError(f"{url} was not ready within {within_s:g} s")


def published_url(engine: Engine, container: str) -> str:
    """Return the URL under which a container's port 8000 was published."""
    return "http://" + engine("port", container, "8000/tcp").split()[0].replace("0.0.0.0", "127.0.0.1")


def infer_request(rows: int) -> tuple[bytes, dict[str, str]]:
    """Return an infer request of so many rows of digits, as bytes, and its headers."""
    array = np.random.default_rng(0).random((rows, 1, 8, 8), np.float32)
    entry: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": list(array.shape)}
    entry["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}
