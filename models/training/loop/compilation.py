"""Compilation of the network by torch.compile, for training; evaluation and checkpoints use the network as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from normfold.contract.errors import first_line
from normfold.models.errors import CompilationError, CompilerError


def compile_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a module that runs the network compiled, with the same parameters and buffers.

    Each batch size is compiled by itself, the last batch of an epoch too: with code for any size, the kernels of a step
    would depend on the steps before it, and a resumed run would differ in the last digits.

    Args:
        network: its names do not change.
        device: of the network.

    Raises:
        CompilerError: the machine has no working compiler for the device.
    """
    _check_compiler(device)
    return cast(nn.Module, torch.compile(network, dynamic=False))  # its type is that of a function


@contextmanager
def named_compilation_errors(name: str, *, compiled: bool) -> Iterator[None]:
    """Raise the compiler's own errors as errors of a network.

    Args:
        name: of the architecture.
        compiled: the network is compiled; otherwise this does nothing.

    Raises:
        CompilationError: the compiler fails in the block.
    """
    try:
        yield
    except Exception as error:
        if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise CompilationError(name, first_line(error, default="no message")) from error
        raise


def _check_compiler(device: torch.device) -> None:
    """Compile and run a function of a few values: it needs a C++ compiler and Python's headers, or Triton on a GPU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch imports code that it has deprecated itself
            torch.compile(_probe, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:
        raise CompilerError(first_line(error, default="no message")) from error


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x.cos()
