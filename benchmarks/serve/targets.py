"""The servers that `make bench-serve` asks beside Normfold's: the most an HTTP server can do, and what tutorials do.

echo      uvicorn and the barest application: gives the body back
tutorial  FastAPI and ONNX Runtime as tutorials write it: a pydantic model, a list of lists, one run a request
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel

Message = dict[str, Any]


async def echo(scope: Message, receive: Any, send: Any) -> None:
    """Answer with the request's own body."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Rows(BaseModel):
    """What the tutorial's server takes."""

    data: list[list[float]]


def tutorial() -> Any:
    """Return the application; the model's path is in the environment as MODEL."""
    import numpy as np
    import onnxruntime
    from fastapi import FastAPI

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    app = FastAPI()

    @app.post("/predict")
    def predict(request: Rows) -> dict[str, Any]:
        (result,) = session.run(None, {port.name: np.array(request.data, np.float32)})
        return {"result": result.tolist()}

    return app
