"""Check the options `shadow` and `canary` against the repository, before the service starts."""

from __future__ import annotations

from pathlib import Path

from normfold.contract.bundle import read_own_manifest
from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import Manifest
from normfold.service.errors import SettingsError
from normfold.service.repository.roles import RoleState, read_options
from normfold.service.repository.scan import scan
from normfold.service.rollout.compatibility import describe_difference
from normfold.service.settings import Settings


def check_rollouts(settings: Settings) -> None:
    """Check that every version of the options exists, beside one that serves and that takes the same requests.

    A bundle that is there and cannot be read is no error here: the service starts, and GET …/shadow or …/canary has the
    reason.

    Raises:
        SettingsError: a version does not exist, has no other one beside it, or is not like it.
    """
    options = read_options(settings)
    if not options:
        return
    root = settings.repository
    try:
        found = scan(root)
    except OSError as error:
        raise SettingsError(
            f"The options 'shadow' and 'canary' need the repository {str(root)!r}, which cannot be read: "
            f"{error.strerror}."
        ) from None
    for name, (shadow, canary) in options.items():
        state = RoleState(shadow, canary)
        versions = found.models.get(name, {})
        serving = [number for number in versions if state.role(number) == "serving"]
        for kind, candidate in (("shadow", shadow), ("canary", canary)):
            if candidate is None:
                continue
            if candidate.version not in versions:
                what = f"no version {candidate.version} of model {name!r}" if versions else f"no model {name!r}"
                raise SettingsError(f"The option {kind!r} names {name}={candidate.version}: there is {what}.")
            if not serving:
                raise SettingsError(
                    f"The option {kind!r} names {name}={candidate.version}, and model {name!r} has no other version "
                    "to serve."
                )
            _check_likeness(kind, versions[candidate.version], versions[serving[-1]], root)


def _check_likeness(kind: str, candidate: Path, serving: Path, root: Path) -> None:
    manifests: list[Manifest] = []
    for folder in (candidate, serving):
        try:
            manifests.append(read_own_manifest(folder, root))
        except NormfoldError:
            return
    if (difference := describe_difference(manifests[0], manifests[1])) is not None:
        raise SettingsError(f"The option {kind!r} is wrong: {difference}")
