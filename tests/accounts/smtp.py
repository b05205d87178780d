"""A mail server that remembers what it gets."""

from __future__ import annotations

import socket
import threading
from typing import Any


class SmtpServer(threading.Thread):
    """A minimal SMTP server that accepts messages, or with `refuse` rejects every recipient."""

    def __init__(self, *, refuse: bool = False) -> None:
        super().__init__(daemon=True)
        self.refuse = refuse
        self.messages: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb", buffering=0) as stream:
                self.talk(stream)

    def talk(self, stream: Any) -> None:
        stream.write(b"220 test\r\n")
        while line := stream.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                stream.write(b"354 go on\r\n")
                lines = []
                while (part := stream.readline()) not in (b".\r\n", b""):
                    lines.append(part.decode())
                self.messages.append("".join(lines))
                stream.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                stream.write(b"221 bye\r\n")
                return
            elif verb == b"RCPT" and self.refuse:
                stream.write(b"550 no such mailbox\r\n")
            else:
                stream.write(b"250 fine\r\n")
