"""The engine that `make test-containers` names, the images that it builds, and a service that runs in one."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator

import pytest

from tests.support.containers import IMAGE, PORT, PROJECT, Engine, Stack, wait_until_ready


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine, as the make target hands it over."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NORMFOLD_")}
    environment |= {"COMPOSE_PROJECT_NAME": PROJECT, "PORT": str(PORT)}
    return Engine(shlex.split(os.environ["CONTAINER"]), shlex.split(os.environ["COMPOSE"]), environment)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The service's image, built by `make image`."""
    started = time.monotonic()
    engine.make("image")
    print(f"\nthe image was built in {time.monotonic() - started:.0f} s")
    return IMAGE


@pytest.fixture(scope="session")
def stack(engine: Engine, image: str) -> Iterator[Stack]:
    """A model, trained in a container, and the service that serves it; taken down by `make down`."""
    assert image == IMAGE
    started = time.monotonic()
    try:
        engine.make("up", "PROFILES=")  # the images for monitoring cannot be had everywhere
        print(f"\ntrained and up in {time.monotonic() - started:.0f} s")
        label = f"label=com.docker.compose.project={PROJECT}"
        service = "label=com.docker.compose.service=service"
        (container,) = engine("ps", "--quiet", "--filter", label, "--filter", service).split()
        (volume,) = [name for name in engine("volume", "ls", "--quiet").split() if name == f"{PROJECT}_models"]
        wait_until_ready(f"http://127.0.0.1:{PORT}")
        yield Stack(f"http://127.0.0.1:{PORT}", container, volume)
    finally:
        engine.make("down")
        engine("volume", "rm", "--force", f"{PROJECT}_models", check=False)


@pytest.fixture
def started(engine: Engine) -> Iterator[list[str]]:
    """Ids of containers to remove behind the test."""
    containers: list[str] = []
    yield containers
    for container in containers:
        engine("rm", "--force", container, check=False)
