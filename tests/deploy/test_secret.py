"""Keys in the folder of a Secret, as Kubernetes lays it out and changes it: by switching a symbolic link."""

from __future__ import annotations

import shutil
from pathlib import Path

from normfold.service.auth.key_admin import create_key
from normfold.service.auth.key_store import KeyStore
from tests.support.deploy_files import KUBERNETES, environment_of, read_document


def _publish(keys: Path, mount: Path, number: int) -> None:
    """Switch the folder over to what `keys` is now, and remove what it was."""
    before = (mount / "..data").resolve()
    folder = mount / f"..{number}"
    folder.mkdir()
    shutil.copy(keys, folder / keys.name)
    (mount / "..new").symlink_to(folder.name)
    (mount / "..new").rename(mount / "..data")
    if before.name != "..data":
        shutil.rmtree(before)


def test_keys_of_a_changed_secret_are_taken(tmp_path: Path) -> None:
    patch = read_document(KUBERNETES / "components" / "keys" / "deployment-patch.yaml")
    keys, mount = tmp_path / Path(environment_of(patch)["NORMFOLD_KEYS"]).name, tmp_path / "mount"
    mount.mkdir()
    (mount / keys.name).symlink_to(f"..data/{keys.name}")
    create_key(keys, "first", ("infer",))
    _publish(keys, mount, 1)
    store = KeyStore(mount / keys.name)
    _, late = create_key(keys, "late", ("infer",))
    assert store.authenticate(late.encode()) == (None, False)
    _publish(keys, mount, 2)
    store.reload_if_changed()
    assert store.authenticate(late.encode())[1]
