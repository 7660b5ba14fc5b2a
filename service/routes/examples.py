"""Examples of the OpenAPI document: a handwritten zero for a model of 8 × 8 grey digits."""

from __future__ import annotations

from typing import Any

from normfold.service.routes.schemas import ref

DIGIT = [
    [0, 0, 5, 13, 9, 1, 0, 0],
    [0, 0, 13, 15, 10, 15, 5, 0],
    [0, 3, 15, 2, 0, 11, 8, 0],
    [0, 4, 12, 0, 0, 8, 8, 0],
    [0, 5, 8, 0, 0, 9, 8, 0],
    [0, 4, 11, 0, 1, 12, 7, 0],
    [0, 2, 14, 5, 10, 12, 0, 0],
    [0, 0, 6, 13, 10, 0, 0, 0],
]

PREDICT_REQUEST = {"instances": [DIGIT]}
PREDICT_RESPONSE = {"predictions": [{"label": "0", "index": 0, "probability": 0.98, "probabilities": [0.98, 0.02]}]}

CLASSIFY_RESPONSE = {
    "model_name": "digits",
    "model_version": "1",
    "classes": [{"label": "0", "index": 0, "probability": 0.98}, {"label": "6", "index": 6, "probability": 0.02}],
}

INFER_REQUEST = {
    "id": "1",
    "inputs": [
        {
            "name": "input",
            "datatype": "FP32",
            "shape": [1, 1, 8, 8],
            "data": [round((value / 16 - 0.306) / 0.376, 3) for row in DIGIT for value in row],
        }
    ],
}
INFER_RESPONSE = {
    "id": "1",
    "model_name": "digits",
    "model_version": "1",
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [7.1, -1.2]}],
}


def json_body(
    schema: str,
    example: dict[str, Any],
    description: str,
    required: bool = True,
    content: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI fields of an operation with a JSON body; `content` has further media types."""
    media_types = {"application/json": {"schema": ref(schema), "example": example}, **(content or {})}
    return {"requestBody": {"required": required, "description": description, "content": media_types}}


def image_body() -> dict[str, Any]:
    """Return the OpenAPI fields of an operation whose body is an image."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "requestBody": {
            "required": True,
            "description": "The bytes of a PNG or JPEG file.",
            "content": {"image/png": binary, "image/jpeg": binary},
        }
    }
