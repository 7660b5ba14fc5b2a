"""The HTTP server: uvicorn's configuration with our own protocol, in one process or in several."""

from __future__ import annotations

import logging
import multiprocessing
import pkgutil
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import sleep

from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from normfold.contract.errors import NormfoldError
from normfold.service.http.protocol import HttpProtocol
from normfold.service.http.timeouts import ConnectionReaper
from normfold.service.logs import configure_logging
from normfold.service.network.notify import take_notifier
from normfold.service.network.server import Config, Server
from normfold.service.runtime.malloc import use_one_arena
from normfold.service.settings import Settings
from normfold.service.workers.state_dir import WORKERS
from normfold.service.workers.supervisor import Supervisor

_HEALTHCHECK_TIMEOUT_S = 10
"""Seconds after which a worker process that does not answer its parent is killed and replaced."""

_RETRY_INTERVAL_S = 5.0
"""Seconds after which a worker process that replaces another one, and cannot start, tries again."""

_EXIT_CODE_FILE = "refused"
"""File in which a worker process that cannot start leaves the exit code of the service."""

_FAULT = 70
"""Exit code of an error that is not the user's, as the command has it."""

logger = logging.getLogger(__name__)


class ServiceConfig(Config):
    """The configuration of uvicorn's server; worker processes get it pickled, and make their own application.

    Args:
        settings: the service's.
        app: the application; or the name of the function that makes it of the settings, `module:function`, which is
            imported and called in the worker process.
        workers: number of worker processes.
    """

    def __init__(self, settings: Settings, app: ASGIApp | str, workers: int = 1) -> None:
        self.settings, self.receive_timeout_s = settings, settings.receive_timeout_s
        super().__init__(
            app,
            http=partial(HttpProtocol, settings, ConnectionReaper()),  # type: ignore[arg-type]  # any factory will do
            loop="uvloop",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            workers=workers,
            timeout_graceful_shutdown=settings.shutdown_grace_s,  # type: ignore[arg-type]  # asyncio takes fractions
            timeout_worker_healthcheck=_HEALTHCHECK_TIMEOUT_S,
        )

    def configure_logging(self) -> None:
        """Configure the log of a worker process; the command has configured that of its own process."""
        super().configure_logging()
        if multiprocessing.parent_process() is not None:
            use_one_arena()  # before the log's thread starts
            configure_logging(self.settings)

    def load(self) -> None:
        """Make the application, if a function for it was named, and take the context of TLS from it."""
        if isinstance(self.app, str):
            self.app = self._make_app(pkgutil.resolve_name(self.app))
        super().load()
        if (certificates := getattr(self.loaded_app, "certificates", None)) is not None:
            self.ssl = certificates.context

    def _make_app(self, factory: Callable[[Settings], ASGIApp]) -> ASGIApp:
        """Make the application of a worker process.

        An error at the start of the service ends the service. One that came up since is retried: other workers serve.
        """
        folder = (self.settings.state_dir or Path()) / WORKERS
        while True:
            try:
                return factory(self.settings)
            except Exception as error:
                expected = isinstance(error, NormfoldError)
                logger.error("A worker process cannot start: %s", error, exc_info=None if expected else error)
                if not any(folder.glob("worker-*.json")):
                    with suppress(OSError):  # the folder may be what is wrong
                        code = error.exit_code if isinstance(error, NormfoldError) else _FAULT
                        (folder / _EXIT_CODE_FILE).write_text(str(code))
                    raise SystemExit(STARTUP_FAILURE) from None
                sleep(_RETRY_INTERVAL_S)


def run_workers(settings: Settings, listeners: Sequence[socket.socket], factory: str) -> None:
    """Serve in several worker processes until a signal stops them; one that dies is replaced.

    Args:
        settings: with a state_dir, which the workers share.
        listeners: open sockets, from which all of them accept connections.
        factory: name of the function that makes the application of the settings, `module:function`. The parent process
            does not import it, which would take memory for nothing.

    Raises:
        SystemExit: the workers could not start; their log has the reason.
    """
    config, folder = ServiceConfig(settings, factory, settings.workers), (settings.state_dir or Path()) / WORKERS
    supervisor = Supervisor(config, listeners, take_notifier(), folder)
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        with suppress(OSError, ValueError):  # it could not be written
            raise SystemExit(int((folder / _EXIT_CODE_FILE).read_text()))
        raise SystemExit(_FAULT)


def make_server(app: ASGIApp, settings: Settings) -> Server:
    """Return a server of an application for sockets that are open already; it logs through the service's own logger."""
    return Server(ServiceConfig(settings, app))
