"""What ONNX Runtime says in an exception, without the place in its own source where it says it.

    /onnxruntime_src/…/pybind_state.cc:1053 std::shared_ptr<…> …::CreateInstance(const …&, …) Invalid option: nonsense

becomes `Invalid option: nonsense`.
"""

from __future__ import annotations

import re

_PLACE = re.compile(r"^\S+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ ")
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_BEHIND_SIGNATURE = re.compile(r"^(?: const)?(?: \[with [^\]]*\])?(?:::<lambda[^>]*>)?(?: const)? ")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception, whole; its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def plain(error: BaseException) -> str:
    """Return the first line of an exception of ONNX Runtime without code, file, line and signature."""
    text = _CODE.sub("", first_line(error))
    place = _PLACE.match(text)
    if place is None:
        return text
    rest = text[place.end() :]
    message = _BEHIND_SIGNATURE.sub("", rest[_end_of_signature(rest) :])
    return message.strip() or text


def _end_of_signature(text: str) -> int:
    """Return where the parentheses that a function's signature opens are closed again; 0 if it has none."""
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0 and text[position + 1 : position + 2] != "(":  # operator()(…)
            return position + 1
    return 0
