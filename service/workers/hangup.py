"""SIGHUP: the access log is reopened, a line is logged, and everything else goes on.

The same holds for one process and for several, whose parent passes the signal on. So `logrotate`, `systemctl reload`
and a terminal that closes lose no request.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from normfold.service.observability.access_log import AccessLog, BatchedAccessLog

logger = logging.getLogger(__name__)


def handle_hangup(access_log: AccessLog) -> None:
    """Reopen the file of the access log at every SIGHUP from now on; outside of the main thread nothing is changed."""
    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reopen, access_log)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


@contextmanager
def blocked_hangup() -> Iterator[None]:
    """Let SIGHUP wait, here until the end of the block, and until `handle_hangup` in processes that are started in it.

    They inherit what is blocked; without that the signal would end one that is not ready for it yet.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def ignore_hangup() -> None:
    """Ignore SIGHUP until `handle_hangup`, or until the supervisor of worker processes handles it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _reopen(access_log: AccessLog) -> None:
    if not isinstance(access_log, BatchedAccessLog) or access_log.path is None:
        logger.info("SIGHUP: there is no file of an access log to reopen; the service goes on.")
    elif access_log.reopen():
        logger.info("SIGHUP: the access log was reopened; the service goes on.")
