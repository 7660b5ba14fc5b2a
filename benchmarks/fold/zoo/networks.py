"""The list of networks: `networks.txt`, one a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("networks.txt")
BATCH = 2


@dataclass(frozen=True)
class Network:
    """A network of another package, and the shape of one row of its input."""

    package: str
    name: str
    row: tuple[int, ...]

    @property
    def label(self) -> str:
        """Package and name."""
        return f"{self.package}/{self.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its input: BATCH rows."""
        return (BATCH, *self.row)

    @staticmethod
    def of(line: str) -> Network:
        """Read a line such as `timm resnet18 3x64x64`."""
        package, name, row = line.split()
        return Network(package, name, tuple(map(int, row.split("x"))))

    def __str__(self) -> str:
        """Return its line of the list."""
        return f"{self.package} {self.name} {'x'.join(map(str, self.row))}"


def read_networks(path: Path = LIST) -> list[Network]:
    """Return the networks of a list; lines that begin with # are comments."""
    lines = path.read_text().splitlines()
    return [Network.of(line) for line in lines if line and not line.startswith("#")]
