"""SIGHUP: the access log is reopened, certificates are loaded again, a line is logged, and everything else goes on.

The same holds for one process and for several, whose parent passes the signal on. So `logrotate`, `systemctl reload`
a terminal that closes and a certificate that is renewed lose no request.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from normfold.service.errors import TlsError
from normfold.service.network.notify import Notifier
from normfold.service.network.tls import Certificates
from normfold.service.observability.access_log import AccessLog, BatchedAccessLog

logger = logging.getLogger(__name__)


def handle_hangup(access_log: AccessLog, certificates: Certificates | None, notifier: Notifier) -> None:
    """Open files again at every SIGHUP from now on; outside of the main thread nothing is changed.

    Args:
        access_log: its file is reopened.
        certificates: loaded again; None without TLS.
        notifier: tells the service manager.
    """

    def reload() -> None:
        notifier.reloading()
        _reopen(access_log, quiet=certificates is not None)
        if certificates is not None:
            _reload(certificates)
        notifier.reloaded()

    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
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


def _reopen(access_log: AccessLog, quiet: bool) -> None:
    if isinstance(access_log, BatchedAccessLog) and access_log.path is not None:
        if access_log.reopen():
            logger.info("SIGHUP: the access log was reopened; the service goes on.")
    elif not quiet:
        logger.info("SIGHUP: there is no file of an access log to reopen; the service goes on.")


def _reload(certificates: Certificates) -> None:
    try:
        certificates.reload()
    except TlsError as error:
        logger.error("SIGHUP: the certificate %s, stays in use. %s", certificates.description, error)
    else:
        logger.info("SIGHUP: new connections use the certificate %s.", certificates.description)
