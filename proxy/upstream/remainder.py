"""What a broken connection has received and nobody has read yet."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator
from typing import Any

READ_BYTES = 64 * 1024


class SSLObject(ssl.SSLObject):
    """The `sslobject_class` of contexts for upstream connections. It keeps `incoming`, where ciphertext is put."""

    incoming: ssl.MemoryBIO

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, *arguments: Any, **options: Any) -> SSLObject:
        created: SSLObject = super()._create(incoming, *arguments, **options)  # type: ignore[misc]  # not in typeshed
        created.incoming = incoming
        return created


class Remainder:
    """The received data of one connection, for `connection_lost`.

    When sending fails because the peer has reset the connection, the transport closes without reading what had arrived
    before. Linux keeps that readable. With TLS, the transport has closed its descriptor before its protocol is told, so
    `keep` makes a duplicate. It is for as long as more is being sent than fits into the socket's buffer: whatever fits
    cannot fail.
    """

    __slots__ = ("_fileno", "_spare", "_ssl_object", "is_kept")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._fileno: int = transport.get_extra_info("socket").fileno()
        self._ssl_object: SSLObject | None = transport.get_extra_info("ssl_object")
        self._spare = -1
        self.is_kept = False  # whether there is a duplicate of the descriptor, to `drop`

    @property
    def is_tls(self) -> bool:
        return self._ssl_object is not None

    def keep(self) -> None:
        """Make `read` possible after the transport has closed. The connection must be open."""
        if self._ssl_object is not None and self._spare < 0:
            self._spare = os.dup(self._fileno)
            self.is_kept = True

    def drop(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
            self.is_kept = False

    def read(self) -> Iterator[bytes]:
        """Yield what has arrived, decrypted, without waiting for more."""
        fileno = self._fileno if self._ssl_object is None else self._spare
        while fileno >= 0:
            try:
                data = os.read(fileno, READ_BYTES)
            except OSError:  # there is no more yet, or the reset is next
                return
            received = data if self._ssl_object is None else _decrypt(self._ssl_object, data)
            if received:
                yield received
            if not data:
                return


def _decrypt(ssl_object: SSLObject, data: bytes) -> bytes:
    """Return the plaintext of all whole records that have arrived, the last of them in `data`."""
    ssl_object.incoming.write(data)
    plain = b""
    try:
        while chunk := ssl_object.read(READ_BYTES):
            plain += chunk
    except ssl.SSLError:  # above all SSLWantReadError
        pass
    return plain
