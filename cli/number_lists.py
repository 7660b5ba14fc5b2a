"""Options that several numbers follow: --connections 1 16 64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from typer.core import TyperCommand


class NumberListCommand(TyperCommand):
    """A command with options that take one number or several; click's take a fixed number of values."""

    number_lists: ClassVar[frozenset[str]] = frozenset({"--connections", "--rate"})
    optional_values: ClassVar[dict[str, str]] = {"--json": "-"}
    """Options whose value may be left out, and what it is then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the option before each of its numbers, as click takes them."""
        return super().parse_args(ctx, list(self.spell_out(args)))

    def spell_out(self, args: Iterable[str]) -> Iterator[str]:
        """Yield arguments with the option before each of its numbers, and with values that were left out."""
        option, has_value = "", True
        for argument in args:
            if option in self.optional_values and not has_value and argument.startswith("-") and argument != "-":
                yield self.optional_values[option]
                has_value = True
            if argument.startswith("--"):
                option, has_value = argument, False
            elif option in self.number_lists and has_value and _is_number(argument):
                yield option
            elif not has_value:
                has_value = True
            else:
                option = ""
            yield argument
        if option in self.optional_values and not has_value:
            yield self.optional_values[option]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
