"""The role of each version: which one may serve, which is a shadow or a canary, and which is held back.

    serving   answers requests: the highest of them that is ready is the default
    canary    answers its share of the requests that name no version, and those that name it
    shadow    answers nobody: what it computes is compared
    ended     was a shadow or canary that was ended: it is not loaded

Every worker process has the same roles: `RoleState` is what they exchange.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from normfold.contract.atomic_write import write_atomically
from normfold.service.repository.entry import Entries, Role, VersionEntry
from normfold.service.rollout_options import SHADOW_SHARE, RolloutOption, parse_rollouts
from normfold.service.settings import Settings

RolloutKind = Literal["shadow", "canary"]

ROLES_NAME = "roles.json"
"""In the state_dir: the roles that were changed by request."""

logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A version that is a shadow or a canary, and its share of the requests, 0 to 1."""

    version: int
    share: float


@dataclass(frozen=True)
class RoleState:
    """The roles of one model's versions; a version in none of the fields may serve.

    Attributes:
        shadow: None if there is none.
        canary: None if there is none.
        ended: versions that were a shadow or a canary, and were ended.
        promoted: versions that were promoted: the highest ready one is loaded whatever the version policy says.
    """

    shadow: Candidate | None = None
    canary: Candidate | None = None
    ended: tuple[int, ...] = ()
    promoted: tuple[int, ...] = ()

    def candidate(self, kind: RolloutKind) -> Candidate | None:
        """Return the shadow or the canary."""
        return self.shadow if kind == "shadow" else self.canary

    def started(self, kind: RolloutKind, version: int, share: float) -> RoleState:
        """Return the roles with a version as the shadow or the canary; the one before it is ended."""
        before = self.candidate(kind)
        state = self if before is None or before.version == version else self.finished(kind)
        kept = replace(state, ended=_without(state.ended, version), promoted=_without(state.promoted, version))
        return kept._with(kind, Candidate(version, share))

    def finished(self, kind: RolloutKind) -> RoleState:
        """Return the roles without the shadow or the canary, which is held back from now on."""
        candidate = self.candidate(kind)
        ended = self.ended if candidate is None else (*_without(self.ended, candidate.version), candidate.version)
        return replace(self, ended=ended)._with(kind, None)

    def with_promoted(self, kind: RolloutKind) -> RoleState:
        """Return the roles with the shadow or the canary as a version that serves."""
        candidate, state = self.candidate(kind), self.finished(kind)
        if candidate is None:
            return state
        version = candidate.version
        promoted = (*_without(state.promoted, version), version)
        return replace(state, ended=_without(state.ended, version), promoted=promoted)

    def role(self, version: int) -> Role:
        """Return the role of a version."""
        if self.shadow is not None and self.shadow.version == version:
            return "shadow"
        if self.canary is not None and self.canary.version == version:
            return "canary"
        return "ended" if version in self.ended else "serving"

    def _with(self, kind: RolloutKind, candidate: Candidate | None) -> RoleState:
        return replace(self, shadow=candidate) if kind == "shadow" else replace(self, canary=candidate)

    def to_record(self) -> dict[str, Any]:
        """Return the roles as JSON's types."""
        return {
            "shadow": None if self.shadow is None else list(self.shadow),
            "canary": None if self.canary is None else list(self.canary),
            "ended": list(self.ended),
            "promoted": list(self.promoted),
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> RoleState:
        """Return the roles of a record that `to_record` returned."""
        shadow, canary = record["shadow"], record["canary"]
        return RoleState(
            None if shadow is None else Candidate(*shadow),
            None if canary is None else Candidate(*canary),
            tuple(record["ended"]),
            tuple(record["promoted"]),
        )


class Roles:
    """The roles of the versions of every model.

    At the start they are those of the options. A change by request holds after a restart too, where there is a
    state_dir: it was made later than the options, unless these are others than when it was made.

    Args:
        settings: `shadow`, `canary` and `state_dir`.
    """

    def __init__(self, settings: Settings) -> None:
        self._options = read_options(settings)
        self._states = {name: RoleState(*candidates) for name, candidates in self._options.items()}
        self._path = None if settings.state_dir is None else settings.state_dir / ROLES_NAME
        self._changed = _read_saved(self._path)
        for name, saved in self._changed.items():
            if saved.get("options") == self._describe_options(name):
                self._states[name] = RoleState.from_record(saved["roles"])

    @property
    def states(self) -> Mapping[str, RoleState]:
        """The models that have or had a shadow or a canary."""
        return self._states

    def of(self, name: str) -> RoleState:
        """Return the roles of one model."""
        return self._states.get(name, RoleState())

    def set(self, name: str, state: RoleState) -> None:
        """Change the roles of one model; `assign` brings them to its entries."""
        self._states[name] = state
        self._changed[name] = {"options": self._describe_options(name), "roles": state.to_record()}
        if self._path is None:
            logger.info("The roles of %s's versions hold until the service ends: there is no state_dir.", name)
            return
        try:
            write_atomically(self._path, orjson.dumps(self._changed))
        except OSError as error:
            logger.error("The roles of %s's versions hold until the service ends: %s", name, error)

    def assign(self, entries: Entries) -> None:
        """Give every entry its role."""
        for name, state in self._states.items():
            for number, entry in entries.get(name, {}).items():
                entry.role, entry.is_promoted = state.role(number), number in state.promoted

    def _describe_options(self, name: str) -> list[list[float] | None]:
        return [None if one is None else list(one) for one in self._options.get(name, (None, None))]


def read_options(settings: Settings) -> dict[str, tuple[Candidate | None, Candidate | None]]:
    """Return the shadow and the canary of each model that the options name."""
    shadows, canaries = parse_rollouts(settings.shadow, SHADOW_SHARE), parse_rollouts(settings.canary, None)
    names = sorted({*shadows, *canaries})
    return {name: (_candidate(shadows.get(name)), _candidate(canaries.get(name))) for name in names}


def _read_saved(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return what was changed by request before this start; nothing if there is no such file, or it is broken."""
    try:
        saved = {} if path is None else orjson.loads(path.read_bytes())
        for record in saved.values():
            RoleState.from_record(record["roles"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read, and the options hold: %s", path, error)
        return {}
    return dict(saved)


def hold_reason(entry: VersionEntry) -> str | None:
    """Return why a version is not loaded because of its role; None if it may be."""
    if entry.role == "shadow":
        return "it is a shadow, which answers no client."
    return "it was a shadow or a canary, which was ended." if entry.role == "ended" else None


def _candidate(option: RolloutOption | None) -> Candidate | None:
    return None if option is None else Candidate(option.version, option.share)


def _without(versions: tuple[int, ...], version: int) -> tuple[int, ...]:
    return tuple(number for number in versions if number != version)
