"""A closed loop of gRPC calls by h2load: the same request again and again over several connections.

h2load speaks HTTP/2 and knows nothing of gRPC, so the message is sent with gRPC's prefix. Unlike gRPC's own client in
Python, it loads a server in Python fully.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.serve.load import LOAD_CORE

INFER = "/inference.GRPCInferenceService/ModelInfer"

_WINDOW_BITS = 30
"""So that flow control does not hold up a large answer."""


@dataclass(frozen=True)
class GrpcLoopResult:
    """The measurements of a closed loop.

    Attributes:
        calls: that were answered.
        p50_ms: of a call.
        p99_ms: of a call.
    """

    calls: int
    p50_ms: float
    p99_ms: float


def grpc_loop(port: int, message: bytes, connections: int, seconds: float) -> GrpcLoopResult:
    """Run a closed loop, with one call at a time on each connection.

    Args:
        port: of the server.
        message: of each call, serialized.
        connections: their number.
        seconds: of the loop.

    Raises:
        SystemExit: a call was not answered with a message.
    """
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]) as channel:
        answer = channel.unary_unary(INFER)(message)
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(framed(message))
        command = ["taskset", "-c", str(LOAD_CORE), "h2load", "--threads=1", "--max-concurrent-streams=1"]
        command += [
            f"--clients={connections}",
            f"--duration={round(1000 * seconds)}ms",
            f"--data={body}",
            f"--log-file={log}",
        ]
        command += [f"--window-bits={_WINDOW_BITS}", f"--connection-window-bits={_WINDOW_BITS}"]
        command += ["--header=content-type: application/grpc", "--header=te: trailers"]
        url = f"http://127.0.0.1:{port}{INFER}"
        text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
        return read_result(text, log.read_text(), len(framed(answer)))


def framed(message: bytes) -> bytes:
    """Return a message with gRPC's prefix: that it is not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def read_result(text: str, log: str, answer_bytes: int) -> GrpcLoopResult:
    """Return the measurements of h2load.

    Args:
        text: that it printed.
        log: a line for each call: when it began, its status, its microseconds.
        answer_bytes: of each answer.

    Raises:
        SystemExit: a call was not answered with a message. h2load does not read gRPC's status, which comes last; but an
            error has no message, so that fewer bytes arrive.
    """
    milliseconds = sorted(int(line.split("\t")[2]) / 1e3 for line in log.splitlines())
    calls = len(milliseconds)
    received = int(re.search(r"\((\d+)\) data$", text, re.MULTILINE)[1])  # type: ignore[index]  # always printed
    if not calls or received < calls * answer_bytes:
        raise SystemExit(f"{calls} calls received {received} bytes, and not {answer_bytes} each.")
    return GrpcLoopResult(calls, milliseconds[calls // 2], milliseconds[calls * 99 // 100])
