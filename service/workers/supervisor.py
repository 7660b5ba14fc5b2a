"""The parent of worker processes: starts them, replaces those that die, and speaks for them to the service manager."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from normfold.service.network.notify import Notifier
from normfold.service.network.server import Config, Server
from normfold.service.workers.hangup import blocked_hangup

logger = logging.getLogger(__name__)


class _WorkerProcess(Process):
    """A worker process with the service's own server."""

    config: Config

    @property
    def server(self) -> uvicorn.Server:
        """The server, made in the process itself."""
        if self._server is None:
            self._server = Server(self.config)
        return self._server


class Supervisor(Multiprocess):
    """uvicorn's supervisor of worker processes; on SIGHUP it replaces none, and passes the signal on.

    Args:
        config: for the worker processes.
        listeners: open sockets, from which all of them accept connections.
        notifier: of the service manager.
        folder: where each worker leaves its status when it has loaded its models; empty at the start.
    """

    def __init__(self, config: Config, listeners: Sequence[socket.socket], notifier: Notifier, folder: Path) -> None:
        super().__init__(config, list(listeners))
        self._notifier, self._folder = notifier, folder
        self._is_ready = False

    def init_processes(self) -> None:
        """Start the worker processes."""
        self.processes += [self._start_process() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace worker processes that have died or hang; tell the service manager once all have loaded."""
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            if process.exitcode == STARTUP_FAILURE:  # it would fail again
                self.should_exit.set()
                return
            self.processes[index] = self._start_process()
        self._notifier.alive()
        if not self._is_ready and len(list(self._folder.glob("worker-*.json"))) >= self.processes_num:
            self._is_ready = True
            self._notifier.ready(f"{self.processes_num} worker processes are serving.")

    def terminate_all(self) -> None:
        """End the worker processes, each after the requests that it has."""
        self._notifier.stopping()
        super().terminate_all()

    def handle_hup(self) -> None:
        """Pass the signal on to the worker processes."""
        self._notifier.reloading()
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)
        self._notifier.reloaded()

    def _start_process(self) -> Process:
        with blocked_hangup():
            process = _WorkerProcess(self.config, self.sockets)
            process.start()
        return process
