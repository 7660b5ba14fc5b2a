"""Loops in the background of the service: each survives its own errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

logger = logging.getLogger(__name__)

RETRY_INTERVAL_S = 5.0
"""Seconds after an error in which a loop does nothing."""


class ErrorLog:
    """Logs an error of a loop once: again only if it changes, and a line when it is over.

    Args:
        what: what the loop cannot do while the error lasts, the beginning of a sentence.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._logged: str | None = None

    def failed(self, error: Exception) -> None:
        """Log an error, with its traceback unless it comes from the environment."""
        text = str(error.strerror if isinstance(error, OSError) and error.strerror else error) or type(error).__name__
        if text != self._logged:
            self._logged = text
            expected = isinstance(error, OSError)
            logger.error("%s: %s. (Logged once.)", self._what, text.rstrip("."), exc_info=None if expected else error)

    def succeeded(self) -> None:
        """Log that the error is over, if there was one."""
        if self._logged is not None:
            self._logged = None
            logger.info("%s: this is over.", self._what)


async def run_forever(errors: ErrorLog, step: Callable[[], Awaitable[object]], interval_s: float) -> None:
    """Call a coroutine function again and again until cancelled, whatever it raises.

    Args:
        errors: gets its errors.
        step: called after each pause.
        interval_s: seconds between two calls; after an error at least RETRY_INTERVAL_S.
    """
    pause_s = interval_s
    while True:
        await asyncio.sleep(pause_s)
        try:
            await step()
        except Exception as error:  # noqa: BLE001 -- a loop that ends would leave the service alive and useless
            with suppress(Exception):  # the log may be what fails
                errors.failed(error)
            pause_s = max(interval_s, RETRY_INTERVAL_S)
        else:
            errors.succeeded()
            pause_s = interval_s
