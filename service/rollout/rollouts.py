"""The shadow and the canary of each model in this process: which version answers a request, and what is compared.

`service.repository.roles` says which versions they are; `Rollouts` loads the shadows and brings both to requests.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic

from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import Manifest
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.json_tensors import Array
from normfold.service.observability.rollout.shadow_stats import ShadowStats
from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository.entry import VersionEntry
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.repository.roles import Candidate, RoleState
from normfold.service.repository.scan import Fingerprint, fingerprint
from normfold.service.rollout.compatibility import describe_difference
from normfold.service.rollout.shadow import Shadow
from normfold.service.rollout.shadow_session import open_shadow
from normfold.service.rollout.utilization import Utilization
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.settings import Settings

CLOSE_TIMEOUT_S = 2.0
"""Seconds that runs of shadows get to stop at shutdown."""

logger = logging.getLogger(__name__)


@dataclass
class Rollout:
    """The shadow and the canary of one model.

    Attributes:
        canary: the version's entry; None if there is no canary, or its folder is missing.
        canary_share: of the requests without a version.
        shadow: None if there is no shadow, or it is not ready.
        shadow_version: that `shadow` is, or should be.
        shadow_problem: why it is not ready.
        failed: fingerprint of the shadow's folder when it failed to load.
        serving: the version that last answered a request without a version.
    """

    canary: VersionEntry | None = None
    canary_share: float = 0.0
    shadow: Shadow | None = None
    shadow_version: int = 0
    shadow_problem: str | None = None
    failed: Fingerprint | None = None
    serving: Model | None = None
    _differences: dict[int, tuple[Manifest, Manifest, str | None]] = field(default_factory=dict)

    def difference(self, candidate: Manifest, serving: Manifest) -> str | None:
        """Return why a version cannot answer the requests of another one; None if it can. The last answer is kept."""
        known = self._differences.get(candidate.version)
        if known is None or known[0] is not candidate or known[1] is not serving:
            text = describe_difference(candidate, serving)
            self._differences[candidate.version] = known = (candidate, serving, text)
            if text is not None:
                logger.warning("%s It gets no requests.", text)
        return known[2]

    def is_serving_idle(self) -> bool:
        """Return whether the version that serves has nothing to run; called in the shadow's thread."""
        return self.serving is None or self.serving.batcher.is_idle


class Rollouts:
    """The shadows and canaries of all models; the event loop alone calls it.

    Args:
        repository: has the versions and their roles.
        thread_pool: opens the networks of shadows.
        telemetry: has the sums of each shadow.
        settings: the provider and the limits.

    Attributes:
        by_model: models that have a shadow or a canary now.
        ended: whether no thread of a shadow runs on after `close`.
    """

    def __init__(
        self, repository: Repository, thread_pool: ThreadPool, telemetry: Telemetry, settings: Settings
    ) -> None:
        self._repository, self._thread_pool, self._telemetry = repository, thread_pool, telemetry
        self._settings = settings
        self.by_model: dict[str, Rollout] = {}
        self.ended = True
        repository.on_change = self.refresh

    def choose(self, model: Model, key: str) -> Model:
        """Return the version that answers a request without a version: its model's canary for a share of the keys.

        Args:
            model: the version that serves.
            key: the request's id: the same id always gets the same answer.
        """
        rollout = self.by_model.get(model.name)
        if rollout is None:
            return model
        rollout.serving = model
        if rollout.canary is None or (canary := rollout.canary.model) is None:
            return model
        if _fraction(f"{model.name}/{canary.version}/{key}") >= rollout.canary_share:
            return model
        return model if rollout.difference(canary.manifest, model.manifest) else canary

    def offer(self, model: Model, tensors: Mapping[str, Array], results: Mapping[str, Array], seconds: float) -> None:
        """Offer a request without a version that was answered to the shadow of its model, if there is one.

        Args:
            model: that answered it.
            tensors: by input.
            results: by output.
            seconds: of its run.
        """
        rollout = self.by_model.get(model.name)
        if rollout is None or rollout.shadow is None or rollout.serving is not model:
            return
        if not rollout.difference(rollout.shadow.manifest, model.manifest):
            rollout.shadow.offer(tensors, results, seconds)

    def shadow_problem(self, name: str) -> str | None:
        """Return why the shadow of a model cannot be compared, or how it failed last; None if nothing is wrong."""
        rollout = self.by_model.get(name)
        if rollout is None or (shadow := rollout.shadow) is None:
            return "It is being loaded." if rollout is None else rollout.shadow_problem
        serving = rollout.serving
        return (serving and rollout.difference(shadow.manifest, serving.manifest)) or shadow.problem

    def shadow_problems(self) -> dict[str, str]:
        """Return the models with a shadow that has a problem, and the problem."""
        found = {name: self.shadow_problem(name) for name, one in self.by_model.items() if one.shadow_version}
        return {name: problem for name, problem in found.items() if problem is not None}

    async def refresh(self) -> None:
        """Load and close shadows, and find canaries, as the roles say now; the repository's lock is held."""
        for name, state in [*self._repository.roles.states.items()]:
            if state.shadow is None and state.canary is None:
                if (rollout := self.by_model.pop(name, None)) is not None:
                    self._close_shadow(name, rollout)
                continue
            rollout = self.by_model.setdefault(name, Rollout())
            versions = self._repository.entries.get(name, {})
            if rollout.serving not in [entry.model for entry in versions.values()]:
                rollout.serving = None  # an unloaded version would be kept in memory
            self._find_canary(rollout, state, versions)
            await self._refresh_shadow(name, rollout, state.shadow, versions)

    def close(self) -> None:
        """Close all shadows: the service ends. A run that goes on is stopped at its next node; wait CLOSE_TIMEOUT_S."""
        shadows = [rollout.shadow for rollout in self.by_model.values() if rollout.shadow is not None]
        for shadow in shadows:
            shadow.close()
        deadline = monotonic() + CLOSE_TIMEOUT_S
        self.ended = all(shadow.join(max(0.0, deadline - monotonic())) for shadow in shadows)

    @staticmethod
    def _find_canary(rollout: Rollout, state: RoleState, versions: Mapping[int, VersionEntry]) -> None:
        rollout.canary = None if state.canary is None else versions.get(state.canary.version)
        rollout.canary_share = 0.0 if state.canary is None else state.canary.share

    async def _refresh_shadow(
        self, name: str, rollout: Rollout, wanted: Candidate | None, versions: Mapping[int, VersionEntry]
    ) -> None:
        version = 0 if wanted is None else wanted.version
        entry = versions.get(version)
        if rollout.shadow_version != version or entry is None:
            self._close_shadow(name, rollout)
        rollout.shadow_version = version
        if wanted is None:
            return
        if rollout.shadow is not None:
            rollout.shadow.share = wanted.share
        elif entry is None:
            rollout.shadow_problem = f"There is no version {version} of model {name!r}."
        else:
            await self._load_shadow(name, rollout, wanted, entry)

    async def _load_shadow(self, name: str, rollout: Rollout, wanted: Candidate, entry: VersionEntry) -> None:
        found = await self._thread_pool.call(fingerprint, entry.folder)
        if rollout.failed == found:
            return
        rollout.shadow_problem = "It is being loaded."
        try:
            manifest, session = await self._thread_pool.call(open_shadow, entry.folder, self._settings)
        except Exception as error:
            expected = isinstance(error, NormfoldError)
            text = str(error).replace(f"{self._settings.repository}/", "")
            rollout.shadow_problem = (
                text if expected else "It failed unexpectedly; the service's log has the traceback."
            )
            rollout.failed = found
            trace = None if expected else error
            logger.error("The shadow %s/%d is unavailable: %s", name, wanted.version, text, exc_info=trace)
            return
        stats = self._telemetry.shadows[name, wanted.version] = ShadowStats()
        stats.max_differences = {spec.name: 0.0 for spec in manifest.outputs}
        busy = Utilization(share_of_processors(self._settings.workers), threading.current_thread())
        rollout.shadow = Shadow(
            manifest, session, wanted.share, stats, lambda: busy.is_busy() or not rollout.is_serving_idle()
        )
        rollout.shadow_problem = rollout.failed = None
        logger.info("%s/%d is the shadow of %s on %s.", name, wanted.version, name, session.placement)

    def _close_shadow(self, name: str, rollout: Rollout) -> None:
        if rollout.shadow is not None:
            rollout.shadow.close()
            logger.info("%s/%d is no longer the shadow of %s.", name, rollout.shadow_version, name)
        self._telemetry.shadows.pop((name, rollout.shadow_version), None)
        rollout.shadow = rollout.shadow_problem = rollout.failed = None


def _fraction(text: str) -> float:
    """Return a number from 0 to 1, evenly distributed over texts, the same in every process."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=7).digest()) / 2**56
