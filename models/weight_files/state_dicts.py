"""Find the state dict in a checkpoint: the mapping of names to tensors among whatever else a script saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from normfold.models.errors import WeightsError
from normfold.models.weight_files.torch_file import Inert

USUAL_KEYS = ("", "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
"""Keys of the trained weights in common training scripts, the first of which counts; "" is the file itself. Averages of
the weights ("ema", "state_dict_ema", "model_ema") are taken where there is nothing else, or if asked for."""

MAX_DEPTH = 3
"""Mappings within each other that are searched."""


class Chosen(NamedTuple):
    """A state dict of a file.

    Attributes:
        tensors: by name.
        key: where it is in the file, joined by dots; "" for the file itself.
        others: keys of the file's other state dicts.
    """

    tensors: dict[str, Tensor]
    key: str
    others: tuple[str, ...]


def choose_state_dict(content: Any, path: Path, key: str | None = None) -> Chosen:
    """Return the state dict of a file.

    Args:
        content: of the file.
        path: of the file, for the error.
        key: of the state dict; None for a usual one, or the only one.

    Raises:
        WeightsError: there is none, none under the key, or several of which none is usual.
    """
    found = dict(_state_dicts(content, ""))
    if not found:
        if _is_network(content) or (isinstance(content, Mapping) and any(map(_is_network, content.values()))):
            raise WeightsError(
                path,
                "holds a whole network of torch.save, which only its own code can read. Where that code is, save the "
                "tensors: torch.save(network.state_dict(), OTHER).",
            )
        raise WeightsError(path, f"holds no state dict, which maps names to tensors{_list_keys(content)}.")
    if key is not None and key not in found:
        raise WeightsError(path, f"has no state dict {key!r}; it has {_join(found)}.")
    large = _large(found)
    chosen = key
    if chosen is None:
        usual = [one for one in USUAL_KEYS if one in large]
        chosen = usual[0] if usual else large[0] if len(large) == 1 else None
    if chosen is None:
        raise WeightsError(
            path, f"holds several state dicts: {', '.join(map(repr, large))}; choose one with `weights_key`."
        )
    return Chosen(found[chosen], chosen, tuple(one for one in large if one != chosen))


def _large(found: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Return the keys of state dicts with at least half the tensors of the largest; others are of metrics, say."""
    full = max(map(len, found.values()))
    return [key for key, tensors in found.items() if 2 * len(tensors) >= full]


def _state_dicts(content: Any, key: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    others = [value for name, value in content.items() if name not in tensors and not name.endswith("_extra_state")]
    if tensors and not others:
        yield key, tensors
    elif key.count(".") < MAX_DEPTH - 1:
        for name, value in content.items():
            yield from _state_dicts(value, f"{key}.{name}" if key else name)


def _is_network(content: Any) -> bool:
    return isinstance(content, Inert) and isinstance(content.state, Mapping) and "_modules" in content.state


def _list_keys(content: Any) -> str:
    return f"; it has {_join(content)}" if isinstance(content, Mapping) and content else ""


def _join(keys: Mapping[Any, Any]) -> str:
    return ", ".join(repr(key) if key else "the file itself" for key in [*keys][:20])
