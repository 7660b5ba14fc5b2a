"""A closed loop of gRPC calls over several connections: the same request again and again, each after its answer.

Run as a process of its own on the core of the load; it prints the number of calls, their seconds, and p50 and p99.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop

from benchmarks.serve.load import LOAD_CORE

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class GrpcLoopResult:
    """The measurements of a closed loop.

    Attributes:
        calls: that were answered.
        seconds: from the first call to the last answer.
        p50_ms: of a call.
        p99_ms: of a call.
    """

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


def grpc_loop(port: int, request: Path, connections: int, seconds: float) -> GrpcLoopResult:
    """Run a closed loop in a process of its own; an error of any call ends it."""
    pinned = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "benchmarks.serve.grpc_load"]
    command = [*pinned, str(port), str(request), str(connections), str(seconds)]
    return GrpcLoopResult(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


async def _run(port: int, data: bytes, connections: int, seconds: float) -> GrpcLoopResult:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(connections)]
    calls = [channel.unary_unary(INFER) for channel in channels]
    await asyncio.gather(*(call(data) for call in calls))  # connects
    milliseconds: list[float] = []
    started = time.perf_counter()

    async def repeat(call: grpc.aio.UnaryUnaryMultiCallable) -> None:
        at = time.perf_counter()
        while at - started < seconds:
            await call(data)
            now = time.perf_counter()
            milliseconds.append(1e3 * (now - at))
            at = now

    await asyncio.gather(*map(repeat, calls))
    lasted = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    milliseconds.sort()
    count = len(milliseconds)
    return GrpcLoopResult(count, lasted, milliseconds[count // 2], milliseconds[count * 99 // 100])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("request", type=Path)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    result = uvloop.run(_run(given.port, given.request.read_bytes(), given.connections, given.seconds))
    sys.stdout.write(json.dumps(vars(result)))
