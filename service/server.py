"""The HTTP server around the application: uvicorn with our own protocol, in one process or in several."""

from __future__ import annotations

import multiprocessing
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from service.logs import configure_logging
from service.memory import use_one_arena
from service.protocol import ServiceProtocol, Sweep
from service.settings import Settings

_HANGS_AFTER_S = 60
"""A worker process that has not answered its parent for so long is killed, and another one takes its place."""


class ServiceConfig(uvicorn.Config):
    """What the HTTP server is told; it goes to worker processes as it is, and they make their own application."""

    def __init__(self, settings: Settings, app: ASGIApp | str = "", workers: int = 1) -> None:
        self.settings = settings
        self.sweep = Sweep()
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
            from service.app import create_app  # not in the parent of worker processes: it would hold it for nothing

            self.app = create_app(self.settings)
        super().load()


def run_workers(settings: Settings, listener: socket.socket) -> None:
    """Serve in several processes, until a signal ends them; one that dies is replaced.

    Args:
        settings: with a state_dir, where they meet.
        listener: open already; all take connections from it.
    """
    Multiprocess(ServiceConfig(settings, workers=settings.workers), [listener]).run()


def make_server(app: ASGIApp, settings: Settings) -> uvicorn.Server:
    """Return a server for sockets that are open already; it logs through the service's own logger."""
    return uvicorn.Server(ServiceConfig(settings, app))
