"""Version policy: selects the versions of a model to load: all, the latest N, or those that are listed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from normfold.contract.manifest import MAX_VERSION
from normfold.service.settings import check_version_policy


@dataclass(frozen=True)
class VersionPolicy:
    """Selects the highest `max_ready` versions that can be loaded, of those in `listed` unless that is None."""

    text: str
    max_ready: float
    listed: frozenset[int] | None

    @staticmethod
    def parse(text: str) -> VersionPolicy:
        """Read `all`, `latest:N`, or numbers joined by commas.

        Raises:
            ValueError: it is none of these.
        """
        check_version_policy(text)
        if text == "all":
            return VersionPolicy(text, math.inf, None)
        if text.startswith("latest:"):
            return VersionPolicy(text, int(text.removeprefix("latest:")), None)
        numbers = frozenset(int(number) for number in text.split(",") if int(number) <= MAX_VERSION)
        return VersionPolicy(text, math.inf, numbers)

    def selects(self, number: int, ready: int) -> bool:
        """Return whether a version is to be loaded, given the number of higher ones that are ready."""
        return ready < self.max_ready and (self.listed is None or number in self.listed)

    def as_configuration(self) -> dict[str, Any]:
        """Return the policy in the form of Triton's model configuration."""
        if self.listed is not None:
            return {"specific": {"versions": sorted(self.listed)}}
        return {"all": {}} if math.isinf(self.max_ready) else {"latest": {"num_versions": int(self.max_ready)}}

    def __str__(self) -> str:
        """Return the text that it was parsed from."""
        return self.text
