"""Messages to the service manager: started, reloading, stopping, alive (sd_notify(3)); without one nothing is sent."""

from __future__ import annotations

import logging
import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime_ns

logger = logging.getLogger(__name__)


class Notifier:
    """Sends messages to the socket in NOTIFY_SOCKET.

    Args:
        address: path of the socket; `@` at its beginning stands for an abstract one. None sends nothing.
        watchdog_interval_s: seconds between two signs of life that the service manager expects; None if it does not.
    """

    def __init__(self, address: str | None = None, watchdog_interval_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self.watchdog_interval_s = watchdog_interval_s if address else None
        self._is_ready = False

    def ready(self, status: str) -> None:
        """Say, once, that the service has started; `status` is shown by `systemctl status`."""
        if not self._is_ready:
            self._is_ready = True
            self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def reloading(self) -> None:
        """Say that the service reads its files again."""
        if self._is_ready:  # before that, the end of the reload would be taken for the end of the start
            self._send(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Say that it has read them."""
        if self._is_ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """Say that the service stops."""
        self._send("STOPPING=1\nSTATUS=Finishing requests.")

    def alive(self) -> None:
        """Give a sign of life to the watchdog, if there is one."""
        if self.watchdog_interval_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            logger.warning("The service manager does not take %r: %s.", message.split("\n")[0], error.strerror)


def take_notifier() -> Notifier:
    """Return a notifier for the service manager that started this process.

    Its variables are removed from the environment, so that processes which are started later send nothing.
    """
    address, interval, process = (
        os.environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    )
    has_watchdog = interval.isascii() and interval.isdecimal() and process in ("", str(os.getpid()))
    return Notifier(address or None, int(interval) / 2e6 if has_watchdog and int(interval) else None)


def _one_line(text: str) -> str:
    return " ".join(text.split())
