"""The name of the processor, with the instructions on which integer arithmetic depends.

Two processors of one name may differ in these, as on virtual machines, and with them in whether sums of products
saturate.
"""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

_INTEGER_INSTRUCTIONS = ("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Flags of x86 and Arm processors, of which ONNX Runtime's integer kernels choose."""


@functools.cache
def processor_name() -> str:
    """Return this machine's processor: architecture, model, instructions; such as "x86_64 AMD EPYC (avx2)"."""
    try:
        return describe_processor(_CPUINFO.read_text())
    except OSError:
        return describe_processor("")


def describe_processor(cpuinfo: str) -> str:
    """Return the name from the text of /proc/cpuinfo; without a model there, what Python knows."""
    fields = {key.lower(): value for key, value in re.findall(r"^([\w ]+?)\s*: *(.+)$", cpuinfo, re.MULTILINE)}
    flags = set(fields.get("flags", fields.get("features", "")).split())
    model = fields.get("model name") or platform.processor() or "unknown"
    machine = platform.machine()
    named = model if model == machine else f"{machine} {model}".strip()
    found = [flag for flag in _INTEGER_INSTRUCTIONS if flag in flags]
    return f"{named} ({', '.join(found)})" if found else named
