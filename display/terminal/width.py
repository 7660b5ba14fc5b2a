"""Text that fits a column of a terminal: words stay whole, names lose their middle and are printable."""

from __future__ import annotations


def middle_shortened(text: str, width: int) -> str:
    """Return a printable text of at most `width` characters: a longer one without its middle."""
    text = printable(text)
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def printable(name: str) -> str:
    """Return a name of a file's with its control characters written out: a terminal would obey them."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


def words_shortened(text: str, width: int) -> str:
    """Return a text in which each word has at most `width` characters, so that lines break between words only."""
    return " ".join(middle_shortened(word, width) for word in text.split(" "))
