"""The options `shadow` and `canary`: NAME=VERSION:SHARE for each model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from normfold.contract.bundle import NAME_PATTERN, parse_version

SHADOW_SHARE = 1.0
"""Share of the requests that a shadow is offered where none is given; it drops what it has no time for."""

_OPTION = re.compile(rf"(?P<model>{NAME_PATTERN.pattern})=(?P<version>[^:]*)(:(?P<share>.*))?", re.DOTALL)


class RolloutOption(NamedTuple):
    """A version of a model, and its share of the requests, 0 to 1."""

    model: str
    version: int
    share: float


def parse_rollouts(texts: Iterable[str], default_share: float | None) -> dict[str, RolloutOption]:
    """Read the options of several models, by model.

    Args:
        texts: NAME=VERSION or NAME=VERSION:SHARE.
        default_share: of an option without one; None if it must have one.

    Raises:
        ValueError: an option is wrong, or two are for one model.
    """
    found: dict[str, RolloutOption] = {}
    for text in texts:
        option = _parse(text, default_share)
        if option.model in found:
            raise ValueError(f"the model {option.model!r} is given twice")
        found[option.model] = option
    return found


def check_share(share: float) -> float:
    """Return a share.

    Raises:
        ValueError: it is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share is {share:g}; it must be from 0 to 1")
    return share


def _parse(text: str, default_share: float | None) -> RolloutOption:
    match = _OPTION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not NAME=VERSION:SHARE, such as digits=2:0.1")
    version = parse_version(match["version"])
    if version is None:
        raise ValueError(f"{text!r} names no version; give a positive number, such as {match['model']}=2")
    if match["share"] is None and default_share is None:
        raise ValueError(f"{text!r} has no share of the requests; give one from 0 to 1, such as {text}:0.05")
    try:
        share = default_share if match["share"] is None else float(match["share"])
    except ValueError:
        raise ValueError(f"{text!r} has the share {match['share']!r}, which is not a number from 0 to 1") from None
    assert share is not None
    return RolloutOption(match["model"], version, check_share(share))
