"""Two transports joined byte for byte."""

from __future__ import annotations

import asyncio
from time import monotonic

from django.conf import settings

from proxy import transports
from proxy.upstream.frame_boundary import FrameBoundary

# While the server stops, a tunnel that is quiet for this long ends. A busy one lasts as long as the server waits.
DRAIN_SECONDS = 2.0
# How long the last bytes may take to leave after the other side has closed.
LINGER_FOR_UPSTREAM = 0.5
LINGER_FOR_CLIENT = 30.0
LINGER_AFTER_REFUSAL = 0.5
BUFFER_BYTES = 64 * 1024
PAUSED_POLL_SECONDS = 0.25  # poll interval for detecting a disconnect while reading is paused
_POLICY_VIOLATION = bytes([0x88, 2]) + (1008).to_bytes(2)  # an unmasked close frame (RFC 6455 §5.5.1)


class Tunnel:
    """Two joined connections. Takes both transports over and closes them when `run` returns."""

    def __init__(self, client: asyncio.Transport, upstream: asyncio.Transport, sent: bytes) -> None:
        """`sent` is what the client has been sent of the provider's frames."""
        self.last_activity = monotonic()
        self._frames = FrameBoundary()
        self._frames.feed(sent)
        self._draining = False
        self._changed = asyncio.Event()
        self._ends = (
            _End(self, client, LINGER_FOR_CLIENT),
            _UpstreamEnd(self, upstream, LINGER_FOR_UPSTREAM, self._frames),
        )
        first, second = self._ends
        first.other, second.other = second, first
        for end in self._ends:
            end.transport.set_write_buffer_limits(high=BUFFER_BYTES)
            end.transport.set_protocol(end)
            end.transport.resume_reading()

    async def run(self) -> None:
        """Return when both sides have closed, or when nothing has passed for `STRAKE_IDLE_SECONDS`."""
        client, _ = self._ends
        try:
            for end in self._ends:
                if end.transport.is_closing():  # it closed before this tunnel received its events
                    end.connection_lost(None)
            while not all(end.lost for end in self._ends):
                limit = DRAIN_SECONDS if self._draining else settings.STRAKE_IDLE_SECONDS
                timeout = self.last_activity + limit - monotonic()
                if timeout <= 0:
                    return
                if client.read_paused:
                    if transports.has_peer_closed(client.transport):
                        return
                    timeout = min(timeout, PAUSED_POLL_SECONDS)
                self._changed.clear()
                try:
                    async with asyncio.timeout(timeout):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # data may have passed meanwhile
        finally:
            for end in self._ends:
                end.abort()

    def drain(self) -> None:
        """End as soon as nothing has passed for `DRAIN_SECONDS`."""
        self._draining = True
        self.wake()

    def refuse(self) -> None:
        """End both connections. The client gets close code 1008, policy violation (RFC 6455 §7.4.1).

        Inside a frame no other frame can begin, so then its connection breaks.
        """
        client, upstream = self._ends
        if client.lost or not self._frames.is_between_frames:
            client.abort()
        else:
            client.transport.write(_POLICY_VIOLATION)
            client.linger = LINGER_AFTER_REFUSAL
            client.close()
        upstream.abort()

    def wake(self) -> None:
        """Make `run` look at the state of both ends again."""
        self._changed.set()


class _End(asyncio.Protocol):
    """One end of a tunnel. Writes what it receives to the other end, and pauses reading while that end is full."""

    other: _End

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, linger: float) -> None:
        self.transport = transport
        self.lost = False
        self.read_paused = False
        self._tunnel = tunnel
        self.linger = linger

    def data_received(self, data: bytes) -> None:
        self._tunnel.last_activity = monotonic()
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()
            self.other.read_paused = True
            self._tunnel.wake()

    def resume_writing(self) -> None:
        self._tunnel.last_activity = monotonic()
        self.other.read_paused = False
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.other.close()
        self._tunnel.wake()

    def close(self) -> None:
        """Close once everything has been sent, or after `linger` seconds."""
        if not self.lost:
            self.transport.close()
            asyncio.get_running_loop().call_later(self.linger, self.abort)

    def abort(self) -> None:
        if not self.lost:
            transports.reset(self.transport)


class _UpstreamEnd(_End):
    """The provider's end, which also follows where frames begin and end."""

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, linger: float, frames: FrameBoundary) -> None:
        super().__init__(tunnel, transport, linger)
        self._frames = frames

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._frames.feed(data)
