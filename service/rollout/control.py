"""Start, end and promote a shadow or a canary: what each changes in the roles of versions, and what forbids it."""

from __future__ import annotations

from normfold.contract.bundle import parse_version, read_own_manifest
from normfold.contract.errors import NormfoldError
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import (
    ControlError,
    ModelUnavailableError,
    NoRolloutError,
    RolloutError,
    UnknownModelError,
)
from normfold.service.repository.repository import Repository
from normfold.service.repository.roles import RoleState, RolloutKind
from normfold.service.rollout.compatibility import describe_difference
from normfold.service.settings import Settings


class RolloutControl:
    """Checks changes of roles that a client asks for.

    Args:
        repository: has the versions and their roles.
        thread_pool: reads files.
        settings: say whether clients may change roles.
    """

    def __init__(self, repository: Repository, thread_pool: ThreadPool, settings: Settings) -> None:
        self._repository, self._thread_pool, self._settings = repository, thread_pool, settings

    def require_control(self) -> None:
        """Check that clients may change roles: with keys those of the scope admin may, otherwise as models are loaded.

        Raises:
            ControlError: there are no keys, and model_control is not 'explicit'.
        """
        if self._settings.keys is None and self._settings.model_control != "explicit":
            what = "Without keys, shadows and canaries are not changed by request"
            raise ControlError(self._settings.model_control, what)

    async def plan_start(self, kind: RolloutKind, name: str, version: str, share: float) -> RoleState:
        """Return the roles with a version as the shadow or the canary of its model.

        Raises:
            UnknownModelError: the repository has no such model or version.
            ModelUnavailableError: no version of the model serves, or this one cannot be read.
            RolloutError: the version serves, has the other role, or is not like the one that serves.
        """
        async with self._repository.lock:
            await self._repository.read_folders(name)
        serving, versions = self._repository.find(name), self._repository.entries[name]
        number = parse_version(version)
        if number is None or number not in versions:
            raise UnknownModelError(name, version)
        state, other = self._repository.roles.of(name), "canary" if kind == "shadow" else "shadow"
        if state.role(number) == other:
            raise RolloutError(f"Version {number} of model {name!r} is its {other}; end or promote that first.")
        if number == serving.version:
            raise RolloutError(f"Version {number} of model {name!r} serves already.")
        try:
            folder, root = versions[number].folder, self._settings.repository
            manifest = await self._thread_pool.call(read_own_manifest, folder, root)
        except NormfoldError as error:
            raise ModelUnavailableError(name, version, str(error).replace(f"{root}/", "")) from error
        if (difference := describe_difference(manifest, serving.manifest)) is not None:
            raise RolloutError(difference)
        return state.started(kind, number, share)

    def plan_end(self, kind: RolloutKind, name: str) -> RoleState:
        """Return the roles without the shadow or the canary of a model.

        Raises:
            UnknownModelError: the repository has no such model.
            NoRolloutError: the model has none.
        """
        return self._require(kind, name).finished(kind)

    def plan_promotion(self, kind: RolloutKind, name: str) -> RoleState:
        """Return the roles with the shadow or the canary of a model as a version that serves.

        Raises:
            UnknownModelError: the repository has no such model.
            NoRolloutError: the model has none.
            RolloutError: a higher version serves, and would go on.
        """
        state = self._require(kind, name)
        candidate = state.candidate(kind)
        higher = [
            number
            for number, entry in self._repository.entries.get(name, {}).items()
            if candidate is not None
            and entry.model is not None
            and entry.role == "serving"
            and number > candidate.version
        ]
        if higher and candidate is not None:
            raise RolloutError(
                f"Version {max(higher)} of model {name!r} serves, as the highest one does; publish a copy of version "
                f"{candidate.version} as the newest with: normfold repository rollback {name} --to {candidate.version}"
            )
        return state.with_promoted(kind)

    def _require(self, kind: RolloutKind, name: str) -> RoleState:
        state = self._repository.roles.of(name)
        if state.candidate(kind) is None:
            if name not in self._repository.entries:
                self._repository.find(name)
            raise NoRolloutError(name, kind)
        return state
