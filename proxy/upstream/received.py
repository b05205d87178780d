"""The response that a connection receives, as llhttp (through httptools) reports it in its strict mode.

A response that could be framed in two ways (RFC 9112 §6) is an error.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from proxy.errors import UpstreamInvalid
from proxy.http.names import CONTENT_LENGTH, NAMES, TRANSFER_ENCODING, Headers

_REASON = re.compile(rb"[\t -~\x80-\xff]*\Z")  # RFC 9112 §4


class ReceivedResponse:
    """The callbacks of the parser, and what they have reported of the current response.

    Once `head_complete` is true, `status`, `reason` and `headers` (raw pairs, as sent) are those of the final response,
    and `kinds` is what the headers are (`proxy.http.names`). `until_eof`: its body ends with the connection.
    """

    __slots__ = (
        "bodyless",
        "buffered",
        "chunks",
        "finished_receiving",
        "head_complete",
        "headers",
        "keep_alive",
        "kinds",
        "parser",
        "reason",
        "status",
        "until_eof",
    )

    def __init__(self) -> None:
        self.parser: Any = None
        self.bodyless = False
        self.finished_receiving = True
        self.keep_alive = True

    def expect(self, *, bodyless: bool) -> None:
        """Begin with a response. `bodyless` ones (to HEAD) have no body, whatever they declare."""
        # A parser reads one response after another, unless the last one was not framed as llhttp expects.
        if self.parser is None or self.bodyless:
            self.parser = httptools.HttpResponseParser(self)
        self.bodyless = bodyless
        self.head_complete = False
        self.until_eof = False
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.finished_receiving = False
        self.keep_alive = False
        self.headers: Headers = []
        self.kinds = 0
        self.reason = b""
        self.status = 0

    @property
    def finished(self) -> bool:
        """Whether the whole response has been read."""
        return self.finished_receiving and not self.chunks

    # --- Called by the parser ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.head_complete:
            raise UpstreamInvalid  # a second response to one request

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_complete:  # otherwise it is a trailer
            self.headers.append((name, value))
            self.kinds |= NAMES[name][2]

    def on_headers_complete(self) -> None:
        parser = self.parser
        self.status = status = parser.get_status_code()
        if not 100 <= status <= 599:
            raise UpstreamInvalid  # servers in front read such a status line differently, or not at all
        if 100 <= status < 200 and status != 101:
            self.reason = b""
            return  # an interim response
        if self.reason != b"OK" and not _REASON.match(self.reason):
            self.reason = b""
        if self.kinds & TRANSFER_ENCODING:
            codings = [value for name, value in self.headers if name.lower() == b"transfer-encoding"]
            if [coding.strip().lower() for coding in codings] != [b"chunked"]:
                raise UpstreamInvalid  # a transfer coding is for one hop only, so Strake would have to decode it
        if status in {101, 204}:  # without a body, they must not declare its length (RFC 9110 §8.6)
            self.headers = [pair for pair in self.headers if pair[0].lower() != b"content-length"]
        self.head_complete = True
        self.keep_alive = parser.should_keep_alive()
        if status == 101:
            self.keep_alive = False
        elif self.bodyless:
            self.finished_receiving = True
        elif not self.keep_alive:
            self.until_eof = not self.kinds & (CONTENT_LENGTH | TRANSFER_ENCODING)

    def on_body(self, data: bytes) -> None:
        if self.finished_receiving:
            self.keep_alive = False  # a body in a response to HEAD
            return
        self.chunks.append(data)
        self.buffered += len(data)

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.finished_receiving = True
        else:
            self.headers = []
            self.kinds = 0
