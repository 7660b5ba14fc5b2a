"""`normfold serve`: serve the models of a repository over REST."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from normfold._shared.paths import REPOSITORY
from normfold.contract.onnxruntime_package import require_onnxruntime

logger = logging.getLogger(__name__)

MODELS, REQUESTS, PROXY, LOG, TLS = "Models", "Requests", "Behind a proxy", "Log", "TLS"
PAYLOAD_LOG = "Log of requests and answers"
_OTHER_FILES = 256
"""File descriptors besides those of connections: the log, the event loop, models that are being loaded."""


def serve(
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Folder of models, as normfold export writes it.",
            show_default=REPOSITORY,
            rich_help_panel=MODELS,
        ),
    ] = None,
    model_control: Annotated[
        Literal["none", "explicit", "poll"] | None,
        typer.Option(
            help="When the repository is read. none: at the start; explicit: on request; poll: every few seconds.",
            show_default="none",
            rich_help_panel=MODELS,
        ),
    ] = None,
    version_policy: Annotated[
        str | None,
        typer.Option(
            metavar="all|latest:N|N,N…",
            help="Versions to load of each model: all, the N highest that load, or those listed.",
            show_default="all",
            rich_help_panel=MODELS,
        ),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VERSION[:SHARE]",
            help="Run a version beside the one that serves, on a share of its requests, and compare; may be repeated.",
            show_default="none",
            rich_help_panel=MODELS,
        ),
    ] = None,
    canary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VERSION:SHARE",
            help="Let a version serve a share of the requests, such as digits=2:0.05; may be repeated.",
            show_default="none",
            rich_help_panel=MODELS,
        ),
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Address to listen on; may be given again.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 chooses a free one.", show_default="8000")
    ] = None,
    uds: Annotated[
        Path | None,
        typer.Option(
            help="Unix socket to listen on; with --host or --port on TCP too.", show_default="none", metavar="PATH"
        ),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(help="Port for gRPC too; 0 chooses a free one.", show_default="no gRPC"),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, made by normfold keys create.", show_default="no key needed", metavar="FILE"
        ),
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="Path under which a proxy publishes the service, such as /ml.",
            show_default="none",
            rich_help_panel=PROXY,
        ),
    ] = None,
    proxy_headers: Annotated[
        bool | None,
        typer.Option(
            "--proxy-headers",
            help="Believe X-Forwarded-Prefix, -For and -Proto of trusted proxies.",
            show_default=False,
            rich_help_panel=PROXY,
        ),
    ] = None,
    forwarded_allow_ips: Annotated[
        str | None,
        typer.Option(
            metavar="IP,NETWORK…",
            help="Trusted proxies, or * for all.",
            show_default="127.0.0.1,::1",
            rich_help_panel=PROXY,
        ),
    ] = None,
    provider: Annotated[
        Literal["cpu", "cuda", "tensorrt", "openvino", "auto"] | None,
        typer.Option(
            metavar="NAME",
            help="Execution provider: cpu, cuda, tensorrt, openvino, or auto: CUDA if it works, otherwise the CPU.",
            show_default="auto",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; they share the processors evenly.", show_default="1")
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="Certificate; HTTP and gRPC then use TLS.", show_default="no TLS", metavar="PEM", rich_help_panel=TLS
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(help="Its key.", show_default="in --tls-cert", metavar="PEM", rich_help_panel=TLS),
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Authorities; clients need a certificate of one of them.",
            show_default="none needed",
            metavar="PEM",
            rich_help_panel=TLS,
        ),
    ] = None,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Maximum rows of one batch.",
            show_default="measured for each model",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    queue_capacity: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Rows that may wait for a model; more are answered 503.",
            show_default="1024",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Default timeout of a request, for queue and run; after it the response is 504.",
            show_default="30",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    access_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a line of JSON for every request to this file.",
            show_default="the service's log",
            rich_help_panel=LOG,
        ),
    ] = None,
    payload_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a sample of requests and answers with their tensors to this file, for later labels.",
            show_default="none",
            rich_help_panel=PAYLOAD_LOG,
        ),
    ] = None,
    payload_log_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the answers in it, 0 to 1.",
            show_default="0.01",
            rich_help_panel=PAYLOAD_LOG,
        ),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(
            help="Lowest level to log; info: every request.",
            show_default="info",
            rich_help_panel=LOG,
        ),
    ] = None,
    log_format: Annotated[
        Literal["json", "text", "auto"] | None,
        typer.Option(
            help="JSON or text lines; auto: text on a terminal.",
            show_default="auto",
            rich_help_panel=LOG,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the address to standard output as one line of JSON.")
    ] = False,
) -> None:
    """Serve the models of a repository over REST.

    Models load after the port is open. GET /v2/health/ready answers 200 once they are ready. The pages at /docs
    describe every route, with examples. Each option overrides the environment variable of the same name, such as
    NORMFOLD_PORT. The page "Settings" of the documentation lists all settings, including those without an option.

    Example: normfold serve --repository model_repository --port 8000
    """
    require_onnxruntime()
    from normfold.cli.announcement import announce
    from normfold.cli.signals import stop_request
    from normfold.service.auth.key_file import read_keys
    from normfold.service.grpc.address import reserved_ports
    from normfold.service.http.server import make_server, run_workers
    from normfold.service.logs import configure_logging
    from normfold.service.network.listeners import open_listeners
    from normfold.service.network.tls import open_certificates
    from normfold.service.observability.payload_log.payload_log import open_payload_file
    from normfold.service.rollout.startup_check import check_rollouts
    from normfold.service.runtime.malloc import use_one_arena
    from normfold.service.settings import load_settings
    from normfold.service.workers.hangup import ignore_hangup
    from normfold.service.workers.state_dir import locked_state_dir

    settings = load_settings(
        repository=repository,
        model_control=model_control,
        version_policy=version_policy,
        shadow=None if shadow is None else ",".join(shadow),
        canary=None if canary is None else ",".join(canary),
        host=",".join(host) if host else None,
        port=port,
        uds=uds,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        grpc_port=grpc_port,
        keys=keys,
        root_path=root_path,
        proxy_headers=proxy_headers,
        forwarded_allow_ips=forwarded_allow_ips,
        provider=provider,
        workers=workers,
        max_batch_size=max_batch_size,
        queue_capacity=queue_capacity,
        timeout_s=timeout_s,
        access_log=access_log,
        payload_log=payload_log,
        payload_log_share=payload_log_share,
        log_level=log_level,
        log_format=log_format,
    )
    ignore_hangup()
    use_one_arena()  # before the log's thread starts
    configure_logging(settings)
    if settings.keys is not None:
        read_keys(settings.keys)  # here already: a worker process that cannot start would be replaced for ever
    open_certificates(settings)  # likewise
    check_rollouts(settings)
    if (payload_file := open_payload_file(settings)) is not None:  # likewise
        payload_file.close()
    _raise_file_limit(settings.max_connections + _OTHER_FILES)
    with (
        stop_request() as stop,
        open_listeners(settings) as listeners,
        reserved_ports(settings.hosts, settings.grpc_port) as reserved,
        locked_state_dir(settings.state_dir, settings.workers, settings.repository) as state_dir,
    ):
        settings = settings.model_copy(update={"state_dir": state_dir, "grpc_port": reserved})
        if settings.workers > 1:
            announce(listeners, as_json, settings)
            stop.check()
            run_workers(settings, listeners, "normfold.service.app:create_app")
            return
        from normfold.service.app import (
            create_app,  # not with several workers: they import it, and the parent stays small
        )

        app = create_app(settings)
        server = make_server(app, settings)
        announce(listeners, as_json, settings)
        stop.hand_over(server)
        end = SystemExit(0)
        try:
            server.run(sockets=list(listeners))
        except SystemExit as error:
            end = error
        has_ended = app.state.thread_pool.ended and app.state.rollouts.ended
    if not has_ended:
        _exit_immediately(end)
    raise end


def _raise_file_limit(required: int) -> None:
    """Raise the limit on open files to `required` as far as the hard limit allows; log a warning if that is less."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= required:
        return
    allowed = required if hard == resource.RLIM_INFINITY else min(required, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < required:
        text = (
            "Only %d files may be open (ulimit -n), too few for %d connections; the service closes connections over "
            "the limit without a response."
        )
        logger.warning(text, allowed, required - _OTHER_FILES)


def _exit_immediately(end: SystemExit) -> NoReturn:
    """Exit while threads hang: the interpreter's own exit would wait for them, or be aborted by them."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(end.code if isinstance(end.code, int) else 1)
