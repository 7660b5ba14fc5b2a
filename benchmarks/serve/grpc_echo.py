"""A bare grpc.aio server, which Normfold's is compared with: each call is answered with the bytes of one file."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import grpc
import uvloop

MAX_MESSAGE_BYTES = 64 * 2**20


async def serve(port: int, answer: bytes) -> None:
    """Answer until SIGTERM."""

    async def infer(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        return answer

    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    server = grpc.aio.server(options=options)
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("answer", type=Path)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.answer.read_bytes()))
