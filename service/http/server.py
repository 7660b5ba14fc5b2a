"""The HTTP server around the application: uvicorn with our own protocol, in one process or in several."""

from __future__ import annotations

import logging
import multiprocessing
import socket
from pathlib import Path
from time import sleep

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from normfold.contract.errors import NormfoldError
from normfold.service.http.protocol import ConnectionReaper, ServiceProtocol
from normfold.service.logs import configure_logging
from normfold.service.runtime.malloc import use_one_arena
from normfold.service.settings import Settings
from normfold.service.workers.state_dir import WORKERS

_HANGS_AFTER_S = 10
"""A worker process that has not answered its parent for so long is killed, and another one takes its place."""

_TRY_AGAIN_S = 5.0
"""After so long a worker that should take another one's place, and cannot begin, tries again."""

_REFUSED = "refused"
"""File in which a worker that cannot begin leaves the exit code of the whole."""

logger = logging.getLogger(__name__)


class ServiceConfig(uvicorn.Config):
    """What the HTTP server is told; it goes to worker processes as it is, and they make their own application."""

    def __init__(self, settings: Settings, app: ASGIApp | str = "", workers: int = 1) -> None:
        self.settings = settings
        self.reaper = ConnectionReaper()
        super().__init__(
            app,
            http=ServiceProtocol,
            loop="uvloop",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            workers=workers,
            timeout_graceful_shutdown=settings.shutdown_grace_s,  # type: ignore[arg-type]  # asyncio takes fractions
            timeout_worker_healthcheck=_HANGS_AFTER_S,
        )

    def configure_logging(self) -> None:
        """Log as the service does, in a worker process; where there is only one, the command has seen to it."""
        super().configure_logging()
        if multiprocessing.parent_process() is not None:
            configure_logging(self.settings)

    def load(self) -> None:
        """Make the application, where none was given."""
        if self.app == "":
            use_one_arena()
            self.app = self._make_app()
        super().load()

    def _make_app(self) -> ASGIApp:
        """Make a worker's application.

        What is wrong at the start ends the service; what went wrong since then is tried again, while the others serve.
        """
        from normfold.service.app import (
            create_app,  # not in the parent of worker processes: it would hold it for nothing
        )

        folder = (self.settings.state_dir or Path()) / WORKERS
        while True:
            try:
                return create_app(self.settings)
            except NormfoldError as error:
                logger.error("A worker cannot begin: %s", error)
                if not any(folder.glob("worker-*.json")):
                    (folder / _REFUSED).write_text(str(error.exit_code))
                    raise SystemExit(STARTUP_FAILURE) from None
                sleep(_TRY_AGAIN_S)


def run_workers(settings: Settings, listener: socket.socket) -> None:
    """Serve in several processes, until a signal ends them; one that dies is replaced.

    Args:
        settings: with a state_dir, where they meet.
        listener: open already; all take connections from it.

    Raises:
        SystemExit: the workers could not begin; their log says why.
    """
    Multiprocess(ServiceConfig(settings, workers=settings.workers), [listener]).run()
    refused = (settings.state_dir or Path()) / WORKERS / _REFUSED
    if refused.exists():
        raise SystemExit(int(refused.read_text()))


def make_server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """Return a server for sockets that are open already; it logs through the service's own logger."""
    return uvicorn.Server(ServiceConfig(settings, app))
