"""Open the network of a shadow, with the checks that a version that serves must pass."""

from __future__ import annotations

from pathlib import Path

from normfold.contract.manifest import MODEL_NAME, Manifest
from normfold.service.repository.int8_check import check_int8
from normfold.service.repository.loader import check_signature, read_bundle
from normfold.service.runtime.providers.session_request import as_text
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session
from normfold.service.settings import Settings


def open_shadow(folder: Path, settings: Settings) -> tuple[Manifest, Session]:
    """Open the network of a bundle for runs in one thread, beside the version that serves.

    Its memory goes back to the system after each run: it has no arena.

    Args:
        folder: NAME/VERSION/.
        settings: the provider.

    Raises:
        ManifestError, DamagedBundleError, BundleLoadError, ProviderError, RuntimePackageError: as for a version that
            serves.
    """
    manifest = read_bundle(folder, settings.repository)
    session = open_session(
        folder / MODEL_NAME,
        settings.provider,
        1,
        as_text(settings.provider_options),
        settings.device_id,
        settings.state_dir,
        arena=False,
        tf32=settings.tf32 == "on",
    )
    check_signature(manifest, session)
    check_int8(folder / MODEL_NAME, manifest, session, settings)
    return manifest, session
