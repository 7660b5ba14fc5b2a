"""The version policy of a service, all, latest:N or numbers joined by commas, as Triton's."""

from __future__ import annotations

import re
from collections.abc import Iterable

from normfold.export.errors import TritonError
from normfold.export.triton.model_config_pb2 import ModelVersionPolicy

_POLICY = re.compile(r"all|latest:[1-9][0-9]{0,8}|[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*")


def read_policy(text: str, versions: Iterable[int]) -> tuple[ModelVersionPolicy, list[int]]:
    """Return a policy in Triton's form, and the versions that it selects, ascending.

    Args:
        text: as of the setting `version_policy`.
        versions: of the model.

    Raises:
        TritonError: the text is no policy.
    """
    if not _POLICY.fullmatch(text):
        raise TritonError(f"The version policy {text!r} is not all, latest:N or numbers joined by commas.")
    numbers = sorted(versions)
    if text == "all":
        return ModelVersionPolicy(all=ModelVersionPolicy.All()), numbers
    if text.startswith("latest:"):
        count = int(text.removeprefix("latest:"))
        return ModelVersionPolicy(latest=ModelVersionPolicy.Latest(num_versions=count)), numbers[-count:]
    listed = sorted({int(number) for number in text.split(",")})
    specific = ModelVersionPolicy.Specific(versions=[number for number in listed if number in numbers])
    return ModelVersionPolicy(specific=specific), [number for number in numbers if number in listed]
