"""SIGHUP: the access log is reopened, a line is logged, and everything else goes on.

The same holds for one process and for several, whose parent passes the signal on. So `logrotate`, `systemctl reload`
and a terminal that closes lose no request.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading

from normfold.service.observability.access_log import AccessLog, BatchedAccessLog

logger = logging.getLogger(__name__)


def handle_hangup(access_log: AccessLog) -> None:
    """Reopen the file of the access log at every SIGHUP from now on; outside of the main thread nothing is changed."""
    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reopen, access_log)


def ignore_hangup() -> None:
    """Ignore SIGHUP until `handle_hangup`, in this process and in those that it starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _reopen(access_log: AccessLog) -> None:
    if not isinstance(access_log, BatchedAccessLog) or access_log.path is None:
        logger.info("SIGHUP: there is no file of an access log to reopen; the service goes on.")
    elif access_log.reopen():
        logger.info("SIGHUP: the access log was reopened; the service goes on.")
