"""JSON Schemas of requests and responses for the OpenAPI document.

They validate nothing: `service.codec.request` and `service.inference.predict` check a request while they decode it.
tests/service/openapi/test_conformance.py checks that both agree.

Requests may have further fields, since clients of the protocol send some; responses have none.
"""

from __future__ import annotations

from typing import Any

from normfold.service.codec.json_tensors import DTYPES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_MAYBE_FLAG: Schema = {"type": ["boolean", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_REAL: Schema = {"type": "number"}
_MAYBE: Schema = {"type": ["boolean", "null"], "description": "null: not known yet."}
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


def _request_object(properties: dict[str, Schema], *required: str, **more: Any) -> Schema:
    """Return the schema of an object in a request; further fields are allowed."""
    return {"type": "object", "properties": properties, "required": list(required), **more}


def _optional_object(properties: dict[str, Schema]) -> Schema:
    """Return the schema of an object in a request that may be null, with fields that may all be left out."""
    return {"type": ["object", "null"], "properties": properties}


def _response_object(properties: dict[str, Schema], *optional: str, **more: Any) -> Schema:
    """Return the schema of an object in a response; further fields are not allowed."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


_INFER: dict[str, Schema] = {
    "Datatype": {"type": "string", "enum": list(DTYPES)},
    "InferInput": _request_object(
        {
            "name": _TEXT,
            "datatype": ref("Datatype"),
            "shape": _list({"type": "integer", "minimum": 0}),
            "data": {
                "type": ["array", "null"],
                "items": {},
                "description": "Flat, or nested like `shape`; absent if `binary_data_size` is given.",
            },
            "parameters": _optional_object(
                {
                    "binary_data_size": {
                        "type": ["integer", "null"],
                        "minimum": 0,
                        "description": "Bytes after the JSON.",
                    }
                }
            ),
        },
        *("name", "datatype", "shape"),
    ),
    "RequestedOutput": _request_object(
        {
            "name": _TEXT,
            "parameters": _optional_object(
                {
                    "binary_data": {**_MAYBE_FLAG, "description": "Return it as bytes after the JSON."},
                    "classification": {
                        "type": ["integer", "null"],
                        "minimum": 1,
                        "description": "Return this number of highest values, as `value:index:label`.",
                    },
                }
            ),
        },
        "name",
        description="An output to return, and its form.",
    ),
    "InferRequest": _request_object(
        {
            "id": {"type": ["string", "null"], "description": "Returned in the response."},
            "inputs": _list(ref("InferInput")),
            "outputs": {
                "type": ["array", "null"],
                "items": ref("RequestedOutput"),
                "description": "Absent or empty: all outputs.",
            },
            "parameters": _optional_object(
                {
                    "binary_data_output": {
                        **_MAYBE_FLAG,
                        "description": "Return outputs as bytes where `outputs` lists none.",
                    },
                    "timeout": {
                        "type": ["integer", "null"],
                        "minimum": 0,
                        "description": "Microseconds; 0: the service's default.",
                    },
                    "priority": {
                        "type": ["integer", "null"],
                        "minimum": 0,
                        "maximum": 2,
                        "description": "1 runs before all others.",
                    },
                }
            ),
        },
        "inputs",
    ),
    "InferOutput": _response_object(
        {
            "name": _TEXT,
            "datatype": ref("Datatype"),
            "shape": _list(_COUNT),
            "data": _list({"type": ["number", "boolean", "string"]}, description="Flat."),
            "parameters": _response_object({"binary_data_size": _COUNT}),
        },
        *("data", "parameters"),
    ),
    "InferResponse": _response_object(
        {"id": _TEXT, "model_name": _TEXT, "model_version": _TEXT, "outputs": _list(ref("InferOutput"))}, "id"
    ),
}

_RAW: dict[str, Schema] = {
    "PredictRequest": _request_object(
        {
            "instances": _list(
                {
                    "description": "Nested pixels; a row, as a list or by column, whose kinds are in `row` of GET "
                    "/v1/models; or a tensor, by input if several."
                },
                minItems=1,
            )
        },
        "instances",
    ),
    "Prediction": _response_object({**_CLASS, "probabilities": _list(_CLASS["probability"])}),
    "Labels": _response_object(
        {
            "labels": _list(_response_object(_CLASS), description="Those from the model's threshold on, descending."),
            "probabilities": _list(_CLASS["probability"], description="Of all labels, in their order."),
        }
    ),
    "Values": _response_object(
        {
            "values": _list(
                _response_object({"name": _TEXT, "value": _REAL, "unit": {"type": ["string", "null"]}}),
                description="Predicted values, in their units.",
            )
        }
    ),
    "Mask": _response_object({"mask": _list(_list(_COUNT), description="The class index of each pixel, row by row.")}),
    "PredictResponse": _response_object(
        {
            "predictions": _list(
                {
                    "anyOf": [
                        ref("Prediction"),
                        ref("Mask"),
                        ref("Labels"),
                        ref("Values"),
                        {
                            "type": ["number", "boolean", "string", "array"],
                            "description": "The values of the only output.",
                        },
                        {"type": "object", "description": "The values of each output, by name."},
                    ]
                },
                minItems=1,
            ),
            "notes": _list(
                _response_object({"instance": _COUNT, "column": _TEXT, "note": _TEXT}),
                description="Values of a table's rows that the network knows nothing about.",
            ),
        },
        "notes",
    ),
    "ClassifyResponse": _response_object(
        {"model_name": _TEXT, "model_version": _TEXT, "classes": _list(_response_object(_CLASS), minItems=1)}
    ),
}

_MODELS: dict[str, Schema] = {
    "Tensor": _response_object(
        {
            "name": _TEXT,
            "datatype": ref("Datatype"),
            "shape": _SHAPE,
            "parameters": _response_object({"optional": {"const": True, "description": "The network has a default."}}),
        },
        "parameters",
    ),
    "Server": _response_object(
        {
            **_DESCRIBED,
            "extensions": _list(_TEXT),
            "providers": _list(_TEXT, description="Execution providers of the loaded models."),
        }
    ),
    "Alive": _response_object({"status": {"const": "alive"}}),
    "Me": _response_object(
        {
            "key": {"anyOf": [{"type": "null"}, _response_object({"id": _TEXT, "name": _TEXT})]},
            "scopes": _list({"enum": ["infer", "admin", "metrics"]}),
            "changes": {"type": "boolean"},
        }
    ),
    "Live": _response_object({"live": {"const": True}}),
    "Ready": _response_object({"ready": {"const": True}}),
    "ModelReady": _response_object({"name": _TEXT, "ready": {"const": True}}),
    "Metadata": _response_object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT, description="Those that are ready."),
            "platform": _TEXT,
            "inputs": _list(ref("Tensor")),
            "outputs": _list(ref("Tensor")),
        }
    ),
    "Version": _response_object(
        {
            "version": _TEXT,
            "state": _STATE,
            "reason": {**_TEXT, "description": "Why it is not ready."},
            "provider": _TEXT,
            "nodes": {
                "type": ["object", "null"],
                "additionalProperties": {"type": "integer"},
                "description": "Number of nodes of the network by execution provider.",
            },
            "inputs": _list(ref("Tensor")),
            "outputs": _list(ref("Tensor")),
            "preprocessing": {"type": ["object", "null"], "description": "How raw inputs are converted to tensors."},
            "row": {
                "type": "object",
                "description": "JSON Schema of a table's row, with the kind of each column; absent for other inputs.",
            },
            "labels": {"type": ["array", "null"], "items": _TEXT},
            "task": {
                "type": ["object", "null"],
                "description": "What an output means that holds predicted values, or labels that do not exclude each "
                "other; null for classes.",
            },
            "precision": {"type": ["string", "null"], "description": "int8 or float16; null: that of the source."},
        },
        *("reason", "provider", "nodes", "inputs", "outputs", "preprocessing", "row", "labels", "task", "precision"),
    ),
    "Models": _response_object(
        {
            "models": _list(
                _response_object({"name": _TEXT, "versions": _list(ref("Version")), "reason": _TEXT}, "reason"),
            )
        }
    ),
    "ConfigTensor": _response_object(
        {"name": _TEXT, "data_type": _TEXT, "dims": _SHAPE, "optional": {"const": True}}, "optional"
    ),
    "Config": _request_object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "max_batch_size": {**_COUNT, "description": "0: rows are not independent, and are not batched."},
            "input": _list(ref("ConfigTensor")),
            "output": _list(ref("ConfigTensor")),
            "dynamic_batching": {"type": "object"},
            "parameters": {"type": "object"},
        },
        *("name", "platform", "max_batch_size", "input", "output", "dynamic_batching", "parameters"),
        description="The configuration of a model, in Triton's form.",
    ),
}

_COUNTED: dict[str, Schema] = {
    "Duration": _response_object({"count": _COUNT, "ns": _COUNT}),
    "ModelStatistics": _response_object(
        {
            **_DESCRIBED,
            "last_inference": {**_COUNT, "description": "Milliseconds since 1970; 0: never."},
            "inference_count": {**_COUNT, "description": "Rows."},
            "execution_count": {**_COUNT, "description": "Runs of the network."},
            "inference_stats": _response_object(
                {
                    name: ref("Duration")
                    for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
                }
            ),
            "batch_stats": _list(_response_object({"batch_size": _COUNT, "compute_infer": ref("Duration")})),
        }
    ),
    "Statistics": _response_object({"model_stats": _list(ref("ModelStatistics"))}),
    "ChannelDrift": _response_object(
        {
            "channel": _COUNT,
            "score": _REAL,
            "mean": _REAL,
            "std": _REAL,
            "name": {**_TEXT, "description": "Of a table's input: the column, and the category."},
        },
        "name",
    ),
    "LayerDrift": _response_object(
        {
            "node": {**_TEXT, "description": "BatchNormalization of the network before its fold."},
            "score": {**_REAL, "description": "Divergence from its statistics, in nats."},
            "threshold": {"type": ["number", "null"], "description": "Exceeded by one in a thousand normal scores."},
            "drifted": _MAYBE,
            "worst_channels": _list(ref("ChannelDrift")),
        }
    ),
    "Sampling": _response_object(
        {
            "share": {**_REAL, "description": "Maximum share of one processor's time for monitoring."},
            "busy_share": {**_REAL, "description": "The share while the process is busy."},
            "row_ms": {**_REAL, "description": "Milliseconds of processor time per row."},
            "max_rows_per_hour": {"type": ["integer", "null"]},
            "max_windows_per_hour": {"type": ["number", "null"]},
        }
    ),
    "DriftScore": _response_object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "monitored": _FLAG,
            "drifted": _MAYBE,
            "rows": {**_COUNT, "description": "Sampled so far; those of one request count as one row of a window."},
            "rows_not_finite": {
                **_COUNT,
                "description": "Sampled rows whose statistics are not finite; not in rows.",
            },
            "window_rows": {**_COUNT, "description": "Rows of the window that a score is computed over."},
            "window_fill": {**_REAL, "description": "Filled fraction of the window, 0 to 1."},
            "calibration_rows": {**_COUNT, "description": "Rows that the thresholds were computed from."},
            "layers": _list(ref("LayerDrift")),
            "sampling": ref("Sampling"),
        },
        *("rows", "rows_not_finite", "window_rows", "window_fill", "calibration_rows", "layers", "sampling"),
        description="Drift of recent inputs from those of training; nothing else is given where `monitored` is false.",
    ),
}

_CANDIDATE: dict[str, Schema] = {
    "model_name": _TEXT,
    "model_version": {**_TEXT, "description": "The shadow's or the canary's."},
    "serving_version": {"type": ["string", "null"], "description": "Answers the other requests that name no version."},
}
_STARTED: dict[str, Schema] = {
    **_CANDIDATE,
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "state": {"type": "string", "enum": ["READY", "UNAVAILABLE"]},
    "reason": {**_TEXT, "description": "Why it is not ready, or how its last run failed."},
}

_ROLLOUT: dict[str, Schema] = {
    "RolloutRequest": _request_object(
        {
            "version": {"type": ["string", "integer"]},
            "share": {
                "type": ["number", "null"],
                "minimum": 0,
                "maximum": 1,
                "description": "Of the requests; a shadow's may be left out.",
            },
        },
        "version",
    ),
    "RolloutChange": _response_object(_CANDIDATE),
    "Canary": _response_object(_STARTED, "reason"),
    "Shadow": _response_object(
        {
            **_STARTED,
            "requests": _response_object({"compared": _COUNT, "dropped": _COUNT, "failed": _COUNT}),
            "rows": {**_COUNT, "description": "That were compared."},
            "rows_not_finite": {**_COUNT, "description": "With NaN or Infinity for one of the two versions alone."},
            "classes": _response_object(
                {
                    "compared": {**_COUNT, "description": "Top classes, of rows or pixels; 0 if it is no classifier."},
                    "agreeing": _COUNT,
                    "agreement": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                }
            ),
            "outputs": _list(
                _response_object(
                    {"name": _TEXT, "max_difference": {**_REAL, "description": "Largest absolute difference."}}
                )
            ),
            "run_ms": _response_object(
                {"serving": {"type": ["number", "null"]}, "shadow": {"type": ["number", "null"]}},
                description="Mean milliseconds of a run, of the compared requests.",
            ),
        },
        "reason",
    ),
}

_REPOSITORY: dict[str, Schema] = {
    "IndexRequest": _request_object({"ready": {**_FLAG, "description": "Only versions that are ready."}}),
    "Index": _list(_response_object({**_DESCRIBED, "state": _STATE, "reason": _TEXT})),
}

_ERROR: dict[str, Schema] = {
    "Error": _request_object(
        {"error": {**_TEXT, "description": "One sentence: what is wrong, and what to do."}}, "error"
    ),
}

SCHEMAS: dict[str, Schema] = _INFER | _RAW | _MODELS | _COUNTED | _ROLLOUT | _REPOSITORY | _ERROR
"""By name in the document."""
