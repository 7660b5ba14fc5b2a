"""Install through apt the programs that tests and benchmarks run.

    python3 -m scripts.system_packages

Installs only what is missing, as root or through sudo, and starts no service: prometheus and nginx are programs that a
test runs on a port of its own. Prints one line for each program that is missing and cannot be had. It needs no package
beyond Python's own, for it runs before the virtual environment exists.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian's switch: while it exits with 101, no package starts its service."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Program:
    """A program that tests or benchmarks run.

    Attributes:
        name: of the executable.
        packages: of Debian that have it; the first that apt knows is installed.
        purpose: what is skipped or cannot be run without it.
        oldest: the oldest version of the package that will do.
    """

    name: str
    packages: tuple[str, ...]
    purpose: str
    oldest: tuple[int, ...] = ()


PROGRAMS = (
    Program("git", ("git",), "tests/architecture"),
    Program("promtool", ("promtool", "prometheus"), "tests/deploy: the alert rules, the dashboard's queries"),
    Program("prometheus", ("prometheus",), "tests/deploy: the queries over a service that is scraped"),
    # `kubectl` is the package of Kubernetes's and of Google's repository; Debian 12's own is too old for components.
    Program("kubectl", ("kubectl", "kubernetes-client"), "tests/deploy: the overlays, built", oldest=(1, 21)),
    Program("openssl", ("openssl",), "tests of TLS: their certificates"),
    Program("curl", ("curl",), "tests of TLS and of Unix sockets: a client that is not Python"),
    Program("systemd-analyze", ("systemd",), "tests of the units, and of sockets that systemd passes"),
    Program("wrk", ("wrk",), "make bench-serve"),
    Program("h2load", ("nghttp2-client",), "make bench-serve, part grpc"),
    Program("taskset", ("util-linux",), "make bench-serve"),
    Program("nginx", ("nginx-light", "nginx"), "tests/service: clients through a reverse proxy"),
    Program("chromium", ("chromium",), "tests/service/web: the pages at / and /docs; looking at the documentation"),
    Program("chromedriver", ("chromium-driver",), "tests/service/web: the page at /"),
)

SERVICES = {"prometheus": ("prometheus",), "nginx": ("nginx", "nginx-light")}
"""Services that packages start, and those packages."""


def missing_programs(programs: Sequence[Program] = PROGRAMS) -> list[Program]:
    """Return the programs that are not installed."""
    return [program for program in programs if shutil.which(program.name, path=SEARCH_PATH) is None]


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a Debian version, without its epoch: 1:20.5+really1.20.2-1 is (1, 20, 2)."""
    upstream = text.rpartition("really")[2] if "really" in text else text.rpartition(":")[2]
    return tuple(int(number) for number in re.findall(r"\d+", upstream.partition("-")[0]))


def candidate_version(package: str) -> str | None:
    """Return the version of a package that apt would install, or None."""
    policy = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Candidate: (\S+)", policy)
    return None if found is None or found[1] == "(none)" else found[1]


def choose_package(program: Program) -> str | None:
    """Return the first of a program's packages that apt has in a version that will do, or None."""
    for package in program.packages:
        version = candidate_version(package)
        # Google's repository counts its own releases: 1:528.0.0 is newer than any number here.
        if version is not None and version_of(version) >= program.oldest:
            return package
    return None


@contextlib.contextmanager
def services_not_started() -> Iterator[None]:
    """Keep packages from starting their services while they are installed, and at the next boot."""
    if POLICY.exists():  # a container's image, as a rule, which has its own reason for it
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install(packages: Sequence[str]) -> int:
    """Install packages with apt-get; return its exit code."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *packages]
    with services_not_started():
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
    if Path("/run/systemd/system").is_dir():
        services = [service for service, names in SERVICES.items() if set(names) & set(packages)]
        if services:
            subprocess.run(["systemctl", "disable", "--quiet", *services], check=False)
    return done.returncode


def main() -> int:
    """Install what is missing; return 0, or 3 if a program is still missing at the end."""
    missing = missing_programs()
    if not missing:
        return 0
    if shutil.which("apt-get") is None:
        return report(missing, "there is no apt-get to install it")
    if os.geteuid() != 0:
        sudo = ["sudo"] if sys.stdin.isatty() else ["sudo", "--non-interactive"]
        may_sudo = (
            shutil.which("sudo")
            and not subprocess.run([*sudo, "true"], stderr=subprocess.DEVNULL, check=False).returncode
        )
        if not may_sudo:
            return report(missing, "installing it needs root or sudo")
        return subprocess.run([*sudo, sys.executable, __file__], check=False).returncode
    subprocess.run(["apt-get", "update", "--quiet=2"], stdout=subprocess.DEVNULL, check=False)
    chosen = {program.name: choose_package(program) for program in missing}
    packages = sorted({package for package in chosen.values() if package is not None})
    if packages:
        sys.stdout.write(f"Installing {', '.join(packages)}.\n")
        sys.stdout.flush()
        if install(packages):
            return report(missing_programs(missing), "apt-get could not install it")
    return report(missing_programs(missing), "apt has no package with it")


def report(programs: Sequence[Program], reason: str) -> int:
    """Print a line for each program that is missing; return 3 if there is one, else 0."""
    for program in programs:
        sys.stdout.write(f"{program.name} is missing ({program.purpose}): {reason}.\n")
    return 3 if programs else 0


if __name__ == "__main__":
    sys.exit(main())
