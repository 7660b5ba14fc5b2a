"""Parameters that are not trained, by patterns of their names, in all epochs or in the first ones.

A layer whose tensors are all frozen is in eval mode too: a BatchNorm keeps its statistics bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from normfold.models.errors import FreezingError
from normfold.models.frozen import frozen_batchnorms
from normfold.models.weight_files.names import COUNTER


@dataclass(frozen=True)
class Freezing:
    """What is frozen in which epochs.

    Attributes:
        always: names of layers that are in eval mode in all epochs.
        first: names of layers that are in eval mode in the first epochs only.
        parameters: names of parameters that are not trained in the first epochs.
        epochs: number of these epochs; 0 where there are none.
        batchnorms: names of all BatchNorm layers among `always` and `first`.
    """

    always: tuple[str, ...]
    first: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    epochs: int = 0
    batchnorms: tuple[str, ...] = ()

    def layers_in(self, epoch: int) -> tuple[str, ...]:
        """Return the names of the layers that are in eval mode in an epoch, from 1."""
        return self.always + self.first if epoch <= self.epochs else self.always

    def batchnorms_in(self, epoch: int) -> tuple[str, ...]:
        """Return the names of the BatchNorm layers that keep their statistics in an epoch, from 1."""
        layers = frozenset(self.layers_in(epoch))
        return tuple(name for name in self.batchnorms if name in layers)

    def set_gradients(self, network: nn.Module, epoch: int) -> None:
        """Let the parameters of the first epochs have gradients, or none, in an epoch, from 1."""
        chosen = frozenset(self.parameters)
        for name, parameter in network.named_parameters():
            if name in chosen:
                parameter.requires_grad_(epoch > self.epochs)


def plan_freezing(
    network: nn.Module,
    frozen: dict[str, nn.Module],
    patterns: Sequence[str],
    epochs: int | None,
    new: Collection[str],
) -> Freezing:
    """Return what is frozen when; parameters that are frozen in all epochs have no gradient from now on.

    Args:
        network: as built, with its initial weights.
        frozen: layers that are to stay in eval mode for another reason, by name.
        patterns: of names of parameters or of layers around them, with * for any text.
        epochs: that the parameters are frozen for; None for all. Without patterns, everything but `new` is frozen.
        new: names of tensors that were not taken from the initial weights.

    Raises:
        FreezingError: a pattern fits no parameter; or nothing, or everything, would be frozen.
    """
    if not patterns and epochs is None:
        return Freezing(tuple(frozen), batchnorms=frozen_batchnorms(frozen))
    chosen = _by_patterns(network, patterns) if patterns else _all_but(network, new)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    if trainable <= chosen:
        raise FreezingError("Every parameter would be frozen, so that nothing is trained; change `freeze`.")
    layers = {name: layer for name, layer in _layers_within(network, chosen) if name not in frozen}
    batchnorms = frozen_batchnorms(frozen | layers)
    if epochs is None:
        for name, parameter in network.named_parameters():
            if name in chosen:
                parameter.requires_grad_(False)
        return Freezing((*frozen, *layers), batchnorms=batchnorms)
    return Freezing(tuple(frozen), tuple(layers), tuple(sorted(trainable & chosen)), epochs, batchnorms)


def _by_patterns(network: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of parameters and statistics that fit a pattern, or lie in a layer that does."""
    parameters, names = dict(network.named_parameters()), set(_tensor_names(network))
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if any(fnmatchcase(part, pattern) for part in _name_and_layers(name))}
        if not fitting & parameters.keys():
            examples = ", ".join(map(repr, [*parameters][:3])) or "none at all"
            raise FreezingError(
                f"`freeze` {pattern!r} fits no parameter, and no layer with one; parameters are {examples} …."
            )
        found |= fitting
    return found


def _all_but(network: nn.Module, new: Collection[str]) -> set[str]:
    if not new:
        raise FreezingError(
            "`freeze_epochs` alone freezes everything but a new head, and the network has none: name what is to be "
            "frozen with `freeze`, or start from `weights` with a head of another size."
        )
    return set(_tensor_names(network)) - set(new)


def _tensor_names(network: nn.Module) -> Iterator[str]:
    yield from (name for name, _ in network.named_parameters())
    yield from (name for name, _ in network.named_buffers() if not name.endswith(COUNTER))


def _name_and_layers(name: str) -> Iterator[str]:
    """Yield the name of a tensor, and those of the layers around it."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(len(parts), 0, -1))


def _layers_within(network: nn.Module, chosen: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers with parameters, or without them statistics, of their own that are all chosen."""
    for name, layer in network.named_modules():
        parameters = [one for one, _ in layer.named_parameters(name, recurse=False)]
        buffers = [one for one, _ in layer.named_buffers(name, recurse=False) if not one.endswith(COUNTER)]
        if name and (own := parameters or buffers) and all(one in chosen for one in own):
            yield name, layer
