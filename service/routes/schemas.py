"""What goes over the wire, as JSON Schema for the OpenAPI document.

Only the document reads these: what a request must be is checked by `service.codec.request` and
`service.inference.predict` while they read it, without a second pass. That both say the same is tested by
tests/service/test_openapi.py.

Requests may have fields that are not named here, as the protocol's clients send some; answers have none.
"""

from __future__ import annotations

from typing import Any

from normfold.service.codec.json_tensors import DTYPES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_REAL: Schema = {"type": "number"}
_PERHAPS: Schema = {"type": ["boolean", "null"], "description": "null: nobody can say."}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": -1}, "description": "-1 is a free size."}
_CLASS: dict[str, Schema] = {
    "label": _TEXT,
    "index": _COUNT,
    "probability": {"type": "number", "minimum": 0, "maximum": 1},
}
_DESCRIBED: dict[str, Schema] = {"name": _TEXT, "version": _TEXT}
_STATE: Schema = {"type": "string", "enum": ["LOADING", "READY", "UNAVAILABLE"]}


def ref(name: str) -> Schema:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _taken(properties: dict[str, Schema], *required: str, **more: Any) -> Schema:
    """Return the schema of an object in a request, which may have further fields."""
    return {"type": "object", "properties": properties, "required": list(required), **more}


def _answered(properties: dict[str, Schema], *optional: str, **more: Any) -> Schema:
    """Return the schema of an object in an answer, which has these fields alone, all but the optional ones always."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


_INFER: dict[str, Schema] = {
    "Datatype": {"type": "string", "enum": list(DTYPES)},
    "InferInput": _taken(
        {
            "name": _TEXT,
            "datatype": ref("Datatype"),
            "shape": _list({"type": "integer", "minimum": 0}),
            "data": _list({}, description="Flat, or nested as `shape` says; left out where `binary_data_size` stands."),
            "parameters": _taken(
                {"binary_data_size": {"type": ["integer", "null"], "minimum": 0, "description": "Bytes behind JSON."}}
            ),
        },
        *("name", "datatype", "shape"),
    ),
    "InferWish": _taken(
        {
            "name": _TEXT,
            "parameters": _taken(
                {
                    "binary_data": {**_FLAG, "description": "InferResponse it as bytes behind the JSON."},
                    "classification": {
                        "type": ["integer", "null"],
                        "minimum": 1,
                        "description": "InferResponse the highest so many, as `value:index:label`.",
                    },
                }
            ),
        },
        "name",
        description="How an output is wanted.",
    ),
    "InferRequest": _taken(
        {
            "id": {"type": ["string", "null"], "description": "Answered as it is."},
            "inputs": _list(ref("InferInput")),
            "outputs": {"type": ["array", "null"], "items": ref("InferWish"), "description": "Left out or empty: all."},
            "parameters": _taken(
                {
                    "binary_data_output": {**_FLAG, "description": "Bytes for outputs that are not listed."},
                    "timeout": {"type": ["integer", "null"], "minimum": 0, "description": "Microseconds; 0 is none."},
                    "priority": {
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 2,
                        "description": "1 goes before all others.",
                    },
                }
            ),
        },
        "inputs",
    ),
    "InferOutput": _answered(
        {
            "name": _TEXT,
            "datatype": ref("Datatype"),
            "shape": _list(_COUNT),
            "data": _list({"type": ["number", "boolean", "string"]}, description="Flat."),
            "parameters": _answered({"binary_data_size": _COUNT}),
        },
        *("data", "parameters"),
    ),
    "InferAnswer": _answered(
        {"id": _TEXT, "model_name": _TEXT, "model_version": _TEXT, "outputs": _list(ref("InferOutput"))}, "id"
    ),
}

_RAW: dict[str, Schema] = {
    "PredictRequest": _taken(
        {
            "instances": _list(
                {"description": "Nested pixels; a row, as a list or by column; or tensors, by input if several."},
                minItems=1,
            )
        },
        "instances",
    ),
    "Prediction": _answered({**_CLASS, "probabilities": _list(_CLASS["probability"])}),
    "Mask": _answered({"mask": _list(_list(_COUNT), description="The number of each pixel's class, row by row.")}),
    "PredictAnswer": _answered(
        {
            "predictions": _list(
                {
                    "anyOf": [
                        ref("Prediction"),
                        ref("Mask"),
                        {"type": ["number", "boolean", "string", "array"], "description": "The one output's values."},
                        {"type": "object", "description": "The outputs' values by name."},
                    ]
                },
                minItems=1,
            )
        }
    ),
    "ClassifyAnswer": _answered(
        {"model_name": _TEXT, "model_version": _TEXT, "classes": _list(_answered(_CLASS), minItems=1)}
    ),
}

_MODELS: dict[str, Schema] = {
    "Tensor": _answered({"name": _TEXT, "datatype": ref("Datatype"), "shape": _SHAPE}),
    "Server": _answered(
        {
            **_DESCRIBED,
            "extensions": _list(_TEXT),
            "providers": _list(_TEXT, description="Those that models run on."),
        }
    ),
    "Live": _answered({"live": {"const": True}}),
    "Ready": _answered({"ready": {"const": True}}),
    "ModelReady": _answered({"name": _TEXT, "ready": {"const": True}}),
    "Metadata": _answered(
        {
            "name": _TEXT,
            "versions": _list(_TEXT, description="Those that can answer."),
            "platform": _TEXT,
            "inputs": _list(ref("Tensor")),
            "outputs": _list(ref("Tensor")),
        }
    ),
    "Version": _answered(
        {
            "version": _TEXT,
            "state": _STATE,
            "reason": {**_TEXT, "description": "Why it cannot answer."},
            "provider": _TEXT,
            "nodes": {
                "type": ["object", "null"],
                "additionalProperties": {"type": "integer"},
                "description": "How many nodes of the network each provider runs.",
            },
            "inputs": _list(ref("Tensor")),
            "outputs": _list(ref("Tensor")),
            "preprocessing": {"type": ["object", "null"], "description": "How raw inputs become tensors."},
            "labels": {"type": ["array", "null"], "items": _TEXT},
        },
        *("reason", "provider", "nodes", "inputs", "outputs", "preprocessing", "labels"),
    ),
    "Models": _answered(
        {
            "models": _list(
                _answered({"name": _TEXT, "versions": _list(ref("Version")), "reason": _TEXT}, "reason"),
            )
        }
    ),
    "ConfigTensor": _answered({"name": _TEXT, "data_type": _TEXT, "dims": _SHAPE}),
    "Config": _taken(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "max_batch_size": {**_COUNT, "description": "0: its rows are not independent, and run alone."},
            "input": _list(ref("ConfigTensor")),
            "output": _list(ref("ConfigTensor")),
            "dynamic_batching": {"type": "object"},
            "parameters": {"type": "object"},
        },
        *("name", "platform", "max_batch_size", "input", "output", "dynamic_batching", "parameters"),
        description="What clients of Triton read of a model's configuration.",
    ),
}

_COUNTED: dict[str, Schema] = {
    "Duration": _answered({"count": _COUNT, "ns": _COUNT}),
    "ModelStatistics": _answered(
        {
            **_DESCRIBED,
            "last_inference": {**_COUNT, "description": "Milliseconds since 1970; 0 is never."},
            "inference_count": {**_COUNT, "description": "Rows."},
            "execution_count": {**_COUNT, "description": "Runs of the network."},
            "inference_stats": _answered(
                {
                    name: ref("Duration")
                    for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
                }
            ),
            "batch_stats": _list(_answered({"batch_size": _COUNT, "compute_infer": ref("Duration")})),
        }
    ),
    "Statistics": _answered({"model_stats": _list(ref("ModelStatistics"))}),
    "ChannelDrift": _answered({"channel": _COUNT, "score": _REAL, "mean": _REAL, "std": _REAL}),
    "LayerDrift": _answered(
        {
            "node": {**_TEXT, "description": "BatchNormalization of the network before its fold."},
            "score": {**_REAL, "description": "Divergence from its statistics, in nats."},
            "threshold": {"type": ["number", "null"], "description": "Of normal scores, one in a thousand is above."},
            "drifted": _PERHAPS,
            "worst_channels": _list(ref("ChannelDrift")),
        }
    ),
    "Sampling": _answered(
        {
            "share": {**_REAL, "description": "Of one processor's time, the most that monitoring takes."},
            "busy_share": {**_REAL, "description": "Likewise, while the process is busy."},
            "row_ms": {**_REAL, "description": "Processor time that a row takes."},
            "max_rows_per_hour": {"type": ["integer", "null"]},
            "max_windows_per_hour": {"type": ["number", "null"]},
        }
    ),
    "DriftScore": _answered(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "monitored": _FLAG,
            "drifted": _PERHAPS,
            "rows": {**_COUNT, "description": "Sampled so far; those of one request count as one row of a window."},
            "rows_not_finite": {
                **_COUNT,
                "description": "Sampled rows whose statistics are not finite; not in rows.",
            },
            "window_rows": {**_COUNT, "description": "Rows of the window that a score is computed over."},
            "window_fill": {**_REAL, "description": "Part of a window that is filled, 0 to 1."},
            "calibration_rows": {**_COUNT, "description": "Held-out rows that the thresholds were computed from."},
            "layers": _list(ref("LayerDrift")),
            "sampling": ref("Sampling"),
        },
        *("rows", "rows_not_finite", "window_rows", "window_fill", "calibration_rows", "layers", "sampling"),
        description="Drift of recent inputs from those of training; nothing else is given where `monitored` is false.",
    ),
}

_REPOSITORY: dict[str, Schema] = {
    "IndexRequest": _taken({"ready": {**_FLAG, "description": "Only versions that can answer."}}),
    "Index": _list(_answered({**_DESCRIBED, "state": _STATE, "reason": _TEXT})),
}

_ERROR: dict[str, Schema] = {
    "Error": _taken({"error": {**_TEXT, "description": "One sentence: what is wrong, and what to do."}}, "error"),
}

SCHEMAS: dict[str, Schema] = _INFER | _RAW | _MODELS | _COUNTED | _REPOSITORY | _ERROR
"""By the name that the document has them under."""
