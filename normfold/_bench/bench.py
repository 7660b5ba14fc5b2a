"""`normfold.bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normfold._bench.load.level import Level
from normfold._bench.model import read_model
from normfold._bench.requests.messages import choose_format
from normfold._bench.requests.pool import make_messages
from normfold._bench.result import BenchResult
from normfold._bench.run import run_levels
from normfold._bench.summary import to_result
from normfold._bench.target import Protocol, parse_target
from normfold._shared.argument_checks import (
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    TENSORS,
    TEXT,
    VERSION,
    Kind,
    check,
    check_optional,
    whole_number,
)
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold.errors import ArgumentError

CONNECTIONS = (1, 16, 64)
"""Closed loops that are run where nothing else is asked for."""

MAX_CONNECTIONS = 256
"""Of an open loop, where no other number is given."""

_RATE = Kind("a number above 0, and at most 100,000", lambda value: POSITIVE.holds(value) and value <= 100_000)  # type: ignore[operator]
_LIST = Kind("a list of numbers", lambda value: isinstance(value, Sequence) and not isinstance(value, str | bytes))


def bench(
    url: str,
    model: str,
    *,
    connections: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    arrivals: str = "poisson",
    max_connections: int = MAX_CONNECTIONS,
    duration_s: float = 10.0,
    warm_up_s: float = 2.0,
    timeout_s: float = 30.0,
    rows: int = 1,
    shape: Mapping[str, Sequence[int]] | None = None,
    samples: AnyPath | None = None,
    version: int | None = None,
    protocol: str | None = None,
    format: str | None = None,  # noqa: A002 -- the name of the option
    key: str | None = None,
    ca: AnyPath | None = None,
    seed: int = 0,
    progress: Progress = False,
) -> BenchResult:
    """Measure the rate and latency of a service of the Open Inference Protocol under load.

    In a closed loop each of several connections sends its next request when the one before is answered: the rate is
    what the service reaches. In an open loop requests are due at a rate of their own, and latency counts from when a
    request was due, so that a service that stalls is not sent fewer requests (no coordinated omission). Works with any
    server of the protocol: metadata and infer alone are asked for. SIGINT ends it, and the result has what was
    measured until then.

    Example:
        >>> import normfold
        >>> result = normfold.bench("http://127.0.0.1:8000", "digits", connections=[64], duration_s=5)
        >>> result.levels[0].errors
        {}

    Args:
        url: of the service: http, https, grpc or grpcs.
        model: its name.
        connections: of closed loops, one after the other; 1, 16 and 64 if there are no `rates` either.
        rates: requests a second of open loops, one after the other.
        arrivals: of open loops: poisson (gaps are exponentially distributed) or constant.
        max_connections: of an open loop; a request that finds none free waits, which is a part of its latency.
        duration_s: seconds that are measured, of each loop.
        warm_up_s: seconds before each measurement.
        timeout_s: seconds after which a request is given up and counts as an error.
        rows: of a request, in the first axis of each input.
        shape: whole shape by input, for free sizes after the first axis.
        samples: an .npz with an array for each input, rows first; random values without it.
        version: of the model; the service's choice without it.
        protocol: http or grpc; that of the URL without it.
        format: of tensors in HTTP: binary or json; binary without it, if the service takes that.
        key: API key, sent with each request.
        ca: file (PEM) with certificates to trust, for https and grpcs.
        seed: of random values and gaps.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError: gRPC is asked for, and the extra `grpc` is not installed.
        ArgumentError: an argument cannot be used, or does not fit the model.
        UnreachableError: the service does not answer.
        ResponseError, ClientError: it has no such model, needs a key, or answers the first request with an error.
    """
    check(TEXT, url=url, model=model)
    check_optional(TEXT, key=key, protocol=protocol, format=format)
    check_optional(PATH, samples=samples, ca=ca)
    check_optional(VERSION, version=version)
    check_optional(TENSORS, shape=shape)
    check(POSITIVE, duration_s=duration_s, timeout_s=timeout_s)
    check(NOT_NEGATIVE, warm_up_s=warm_up_s)
    check(whole_number(1), rows=rows, max_connections=max_connections)
    check(whole_number(0), seed=seed)
    if arrivals not in ("poisson", "constant"):
        raise ArgumentError(f"`arrivals` must be poisson or constant, not {arrivals!r}.")
    if connections is None and rates is None:
        connections = CONNECTIONS
    closed = [(count, None) for count in _checked(connections, whole_number(1), "connections")]
    opened = [(max_connections, rate) for rate in _checked(rates, _RATE, "rates")]
    if not (closed or opened):
        raise ArgumentError("`connections` and `rates` are empty; give a number in one of them.")
    levels = [
        Level(count, rate, arrivals == "poisson", warm_up_s, duration_s, timeout_s, seed)
        for count, rate in (*closed, *opened)
    ]
    target = parse_target(url, protocol, key, optional_path(ca))
    if target.protocol is Protocol.GRPC:
        require_packages("grpc", extra="grpc", needed_for="normfold bench of gRPC")
    with progress_callback(progress) as show:
        show("asking for the model's metadata")
        described = read_model(target, model, version, timeout_s)
        form = choose_format(described, target, format)
        show("making requests")
        messages, rows = make_messages(described, target, form, rows, shape or {}, optional_path(samples), seed)
        measured, interrupted = run_levels(target, levels, messages, show)
    return BenchResult(
        url=target.url,
        model=model,
        version=version,
        protocol=str(target.protocol),
        format=str(form),
        rows=rows,
        request_bytes=len(messages[0]),
        warm_up_s=warm_up_s,
        arrivals=arrivals,
        levels=tuple(to_result(level, found, rows) for level, found in zip(levels, measured, strict=False)),
        interrupted=interrupted,
    )


def _checked(values: object, kind: Kind, name: str) -> Sequence[Any]:
    """Return a list whose elements are all of a kind; an empty one for None.

    Raises:
        ArgumentError: it is another.
    """
    if values is None:
        return ()
    check(_LIST, **{name: values})
    assert isinstance(values, Sequence)
    for value in values:
        check(kind, **{name: value})
    return values
