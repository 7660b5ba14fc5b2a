"""Flow control of a connection: when it is read, and when a large response may go on."""

from __future__ import annotations

import asyncio


class FlowControl:
    """Pauses and resumes reading, and lets writers wait while the transport's buffer is full."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_reading_paused = False
        self.is_writing_paused = False
        self._writable: asyncio.Event | None = None

    def pause_reading(self) -> None:
        """Stop reading from the connection."""
        if not self.is_reading_paused:
            self.is_reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the connection again."""
        if self.is_reading_paused:
            self.is_reading_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full."""
        if not self.is_writing_paused:
            self.is_writing_paused, self._writable = True, asyncio.Event()

    def resume_writing(self) -> None:
        """Note that the client has read most of the transport's buffer, or has disconnected."""
        self.is_writing_paused = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> None:
        """Wait until the transport's buffer has space."""
        if self.is_writing_paused and self._writable is not None:
            await self._writable.wait()
