"""A name server for machines on the test network: every name has the address of the switch."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Self

from tests.support import machines

_TTL_SECONDS = 5
_TYPE_A = b"\0\1"


class NameServer:
    """Answers while `answers` is true. Use it as a context manager, in which the machines ask it."""

    def __init__(self, folder: Path) -> None:
        self.answers = True
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((machines.ADDRESS, 53))
        for name, text in (
            ("resolv.conf", f"nameserver {machines.ADDRESS}\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ):
            (folder / name).write_text(text)
            machines.run("mount", "--bind", str(folder / name), f"/etc/{name}")

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("resolv.conf", "nsswitch.conf"):
            machines.run("umount", f"/etc/{name}")
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(512)
            except OSError:
                return
            if self.answers:
                self._socket.sendto(_answer(query), peer)


def _answer(query: bytes) -> bytes:
    """The address for a question of type A, and no record for any other (RFC 1035)."""
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    is_a = question[-4:-2] == _TYPE_A
    address = b"\xc0\x0c\0\1\0\1" + _TTL_SECONDS.to_bytes(4) + b"\0\4" + socket.inet_aton(machines.ADDRESS)
    return query[:2] + b"\x81\x80\0\1\0" + bytes([is_a]) + bytes(4) + question + address * is_a
