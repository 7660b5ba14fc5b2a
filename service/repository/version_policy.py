"""Which versions of a model are loaded: all, the latest N, or those that are listed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from normfold.contract.manifest import MAX_VERSION

PATTERN = re.compile(r"^(?:all|latest:[1-9][0-9]{0,8}|[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*)$")
"""What a version policy looks like."""


@dataclass(frozen=True)
class VersionPolicy:
    """At most `most` versions that can answer, the highest, of those listed if any are."""

    text: str
    most: float
    listed: frozenset[int] | None

    @staticmethod
    def parse(text: str) -> VersionPolicy:
        """Read `all`, `latest:N`, or numbers joined by commas.

        Raises:
            ValueError: it is none of these.
        """
        if not PATTERN.fullmatch(text):
            raise ValueError(f"{text!r} is none of all, latest:N, and numbers joined by commas")
        if text == "all":
            return VersionPolicy(text, math.inf, None)
        if text.startswith("latest:"):
            return VersionPolicy(text, int(text.removeprefix("latest:")), None)
        numbers = frozenset(int(number) for number in text.split(",") if int(number) <= MAX_VERSION)
        return VersionPolicy(text, math.inf, numbers)

    def wants(self, number: int, ready: int) -> bool:
        """Whether a version is to be loaded, given how many higher ones can answer."""
        return ready < self.most and (self.listed is None or number in self.listed)

    def as_configuration(self) -> dict[str, Any]:
        """Return it as Triton's model configuration has it."""
        if self.listed is not None:
            return {"specific": {"versions": sorted(self.listed)}}
        return {"all": {}} if math.isinf(self.most) else {"latest": {"num_versions": int(self.most)}}

    def __str__(self) -> str:
        """Return it as it was given."""
        return self.text
