"""Sentences on what a Triton configuration says and a bundle does not: settings of the service, and what is not there.

A bundle holds a network and its card. How requests are batched, queued and placed is set for a whole service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from normfold.export.triton.config_file import TritonConfig
from normfold.export.triton.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy

_REMARKS = {
    "model_warmup": "the service warms up a model itself, unless its inputs have free sizes or are strings",
    "optimization": "NORMFOLD_PROVIDER and NORMFOLD_PROVIDER_OPTIONS choose how networks run, for all models",
    "parameters": "NORMFOLD_INTRA_OP_THREADS and NORMFOLD_PROVIDER_OPTIONS set how networks run, for all models",
    "response_cache": "responses are not cached",
    "cc_model_filenames": "one file serves every device",
    "batch_input": "clients send all inputs themselves",
    "batch_output": "outputs are split by rows",
    "model_transaction_policy": "every request has one response",
    "dynamic_batching.priority_levels": "a request with the parameter `priority` 1 runs before others",
    "dynamic_batching.preserve_ordering": "responses are sent as they are ready",
}
"""What takes the place of a field, by its path."""

_KINDS = {number: name for name, number in ModelInstanceGroup.Kind.items()}


def describe_left_out(config: TritonConfig, versions: Iterable[int]) -> list[str]:
    """Return a sentence for each thing that a configuration says and no bundle holds.

    Args:
        config: as read.
        versions: of the model, as they lie in the repository.
    """
    message = config.message
    return [
        *_on_versions(message, sorted(versions)),
        *_on_batching(message),
        *_on_instances(message),
        *(_on_unread(path) for path in config.unread),
    ]


def _on_unread(path: str) -> str:
    remark = _REMARKS.get(path)
    return f"`{path}` is left out: {remark}." if remark else f"`{path}` is left out: it has no counterpart."


def _on_versions(message: ModelConfig, versions: list[int]) -> Iterator[str]:
    policy = message.version_policy
    chosen = policy.WhichOneof("policy_choice")
    if chosen == "all":
        return
    if chosen == "specific":
        served = [number for number in versions if number in policy.specific.versions]
        text = ",".join(map(str, policy.specific.versions))
        if missing := sorted(set(policy.specific.versions) - set(versions)):
            yield f"`version_policy` names {', '.join(map(str, missing))}, which the repository does not hold."
    else:
        count = policy.latest.num_versions or 1
        served, text = versions[-count:], f"latest:{count}"
    if served != versions:
        yield (
            f"`version_policy` lets Triton serve {', '.join(map(str, served)) or 'no version'}; all versions are "
            f"imported. NORMFOLD_VERSION_POLICY={text} serves the same, and holds for all models."
        )


def _on_batching(message: ModelConfig) -> Iterator[str]:
    if message.max_batch_size > 0:
        yield (
            f"`max_batch_size` {message.max_batch_size} is the service's NORMFOLD_MAX_BATCH_SIZE, for all models, or "
            "measured while a model loads; a request with more rows is split, not rejected."
        )
    if message.WhichOneof("scheduling_choice") != "dynamic_batching":
        return
    batching = message.dynamic_batching
    if batching.preferred_batch_size:
        sizes = ", ".join(map(str, batching.preferred_batch_size))
        yield f"`preferred_batch_size` {sizes} is left out: a batch takes what is queued."
    if batching.max_queue_delay_microseconds:
        delay_ms = batching.max_queue_delay_microseconds / 1000
        yield f"`max_queue_delay_microseconds` is NORMFOLD_MAX_BATCH_DELAY_MS={delay_ms:g}, for all models."
    if batching.HasField("default_queue_policy"):
        yield from _on_queue(batching.default_queue_policy)


def _on_queue(queue: ModelQueuePolicy) -> Iterator[str]:
    if queue.default_timeout_microseconds:
        timeout_s = queue.default_timeout_microseconds / 1e6
        yield (
            f"`default_timeout_microseconds` is NORMFOLD_TIMEOUT_S={timeout_s:g}, for all models; it covers queue and "
            "run, Triton's the queue alone."
        )
    if queue.timeout_action == ModelQueuePolicy.DELAY:
        yield "`timeout_action` DELAY is left out: a request past its deadline is answered with 504."
    if queue.default_timeout_microseconds and not queue.allow_timeout_override:
        yield "`allow_timeout_override` is false; here a request may set its own timeout, up to NORMFOLD_MAX_TIMEOUT_S."
    if queue.max_queue_size:
        yield (
            f"`max_queue_size` {queue.max_queue_size} counts requests; NORMFOLD_QUEUE_CAPACITY counts rows, for all "
            "models."
        )


def _on_instances(message: ModelConfig) -> Iterator[str]:
    for group in message.instance_group:
        kind = _KINDS.get(group.kind, str(group.kind))
        yield (
            f"`instance_group` of {group.count or 1} × {kind} is left out: each worker process of a service "
            "(NORMFOLD_WORKERS) runs a model once, where NORMFOLD_PROVIDER says."
        )
