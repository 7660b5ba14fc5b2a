"""The servers that `make bench-serve` compares Normfold with.

echo      uvicorn with a minimal application that reads the body and sends as many bytes as the service's response has:
          an upper limit for an HTTP server
tutorial  FastAPI and ONNX Runtime as in tutorials: a pydantic model with a list of lists, one run per request
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel

Message = dict[str, Any]


async def echo(scope: Message, receive: Any, send: Any) -> None:
    """Read the request's body, and respond with RESPONSE_BYTES bytes of it."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    body = body[: int(os.environ["RESPONSE_BYTES"])]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Rows(BaseModel):
    """Request body of the tutorial's server."""

    data: list[list[float]]


def tutorial() -> Any:
    """Return the application; the model's path is in the environment as MODEL."""
    import numpy as np
    import onnxruntime
    from fastapi import FastAPI

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    app = FastAPI()

    @app.post("/predict")
    def predict(request: Rows) -> dict[str, Any]:
        (result,) = session.run(None, {value.name: np.array(request.data, np.float32)})
        return {"result": result.tolist()}

    return app
