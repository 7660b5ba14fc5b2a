"""ONNX Runtime's messages, without the position in its source code that they begin with.

    /onnxruntime_src/…/pybind_state.cc:1053 std::shared_ptr<…> …::CreateInstance(const …&, …) Invalid option: nonsense

becomes `Invalid option: nonsense`.
"""

from __future__ import annotations

import re

from normfold.contract.errors import first_line

_POSITION = re.compile(r"^\S+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ ")
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_AFTER_SIGNATURE = re.compile(r"^(?: const)?(?: \[with [^\]]*\])?(?:::<lambda[^>]*>)?(?: const)? ")


def message_of(error: BaseException) -> str:
    """Return the first line of an exception of ONNX Runtime, without error code, file, line and signature."""
    text = _CODE.sub("", first_line(error))
    position = _POSITION.match(text)
    if position is None:
        return text
    rest = text[position.end() :]
    message = _AFTER_SIGNATURE.sub("", rest[_end_of_signature(rest) :])
    return message.strip() or text


def _end_of_signature(text: str) -> int:
    """Return the index of the first character after a function's signature, or 0 if the text has no signature.

    The end of the signature is found by counting parentheses.
    """
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0 and text[index + 1 : index + 2] != "(":  # operator()(…)
            return index + 1
    return 0
