"""The head of a request as llhttp (through httptools) reports it, with one interpretation or refused.

The target must be in origin form and is kept as sent. There must be exactly one Host. `chunked` is the only transfer
coding, and HTTP/1.0 has none. Trailers are dropped. A second parser behind this one must not see two requests where
this one saw one.
"""

from __future__ import annotations

from typing import Any, Protocol

import httptools

from proxy.http.names import CONTENT_LENGTH, EXPECT, HOST, NAMES, NOT_FOR_UPSTREAM, TRANSFER_ENCODING, Headers

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256

_FRAGMENT = ord("#")
_METHODS = {name.encode(): name for name in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")}
_CHECKED = EXPECT | HOST | TRANSFER_ENCODING
_FRAMING = CONTENT_LENGTH | TRANSFER_ENCODING


class Refused(Exception):
    """The request is refused with this status. Raised inside parser callbacks."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Pipelined(Exception):
    """The client sent a second request before the response to its first. Raised inside parser callbacks.

    The first gets its response, then the connection closes. Clients must expect that (RFC 9112 §9.3.2).
    """


class Connection(Protocol):
    """The client's connection, which is told of requests."""

    @property
    def is_idle(self) -> bool:
        """Whether a new request may begin."""

    def on_head(self, parser: RequestParser) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


class RequestParser:
    """Parses the requests of one connection, one after the other, and reports them to it.

    `connection.on_head` is called with this object for each head. Then `method`, `target`, `headers`, `passing` and
    `kinds` are as in `proxy.server.exchange.Exchange`.
    """

    __slots__ = (
        "_connection",
        "_head_complete",
        "_host_count",
        "_parser",
        "_transfer_coding",
        "asks_for_upgrade",
        "expects_continue",
        "headers",
        "is_http_1_0",
        "keeps_alive",
        "kinds",
        "method",
        "on_body",
        "on_message_complete",
        "passing",
        "received",
        "target",
        "unfinished",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete
        self.received = 0  # bytes of the current head, and perhaps of what follows it
        self.unfinished = 0  # of a head that has not arrived completely
        self._parser: Any = httptools.HttpRequestParser(self)
        # What arrives behind a request that closes the connection is discarded, and not an error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed(self, data: bytes) -> None:
        """Parse data. Raises `httptools.HttpParserError`, and `HttpParserUpgrade` behind a head that asks for one."""
        self.received = self.unfinished + len(data)
        self._parser.feed_data(data)

    @property
    def asks_for_websocket(self) -> bool:
        """A handshake is a GET without a body (RFC 6455 §4.1). Any other request for an upgrade is served as HTTP."""
        return (
            self.asks_for_upgrade
            and self.method == "GET"
            and not self.is_http_1_0
            and not any(NAMES[name].kinds & _FRAMING and value.strip(b"0") for name, value in self.headers)
            and self._upgrades_to() == b"websocket"
        )

    def read_body_only(self, received: bytes) -> None:
        """Go on with the body of a request whose upgrade is declined. llhttp takes it for another protocol's data."""
        framing = b"".join([b"%b: %b\r\n" % pair for pair in self.headers if NAMES[pair[0]].kinds & _FRAMING])
        self._parser = httptools.HttpRequestParser(_BodyCallbacks(self))
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n%b" % (framing, received))

    def _upgrades_to(self) -> bytes:
        """Return the protocol in Upgrade, or b"" if Connection does not name that header."""
        last = dict(self.headers)
        options = [option.strip() for option in last.get(b"connection", b"").lower().split(b",")]
        return last.get(b"upgrade", b"").lower() if b"upgrade" in options else b""

    # --- Called by the parser ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self._connection.is_idle:
            raise Pipelined
        self._head_complete = False
        self.target = b""
        self.headers: Headers = []
        self.passing: Headers = []
        self.kinds = 0
        self._host_count = 0
        self._transfer_coding: bytes | None = None
        self.expects_continue = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer
        lower, _, kinds = NAMES[name]
        value = value.rstrip(b" \t")
        self.headers.append((lower, value))
        if not kinds & NOT_FOR_UPSTREAM:
            self.passing.append((name, value))
        if kinds:
            self.kinds |= kinds
            if kinds & _CHECKED:
                self._check_header(kinds, value)

    def _check_header(self, kinds: int, value: bytes) -> None:
        if kinds & HOST:
            self._host_count += 1
        elif kinds & TRANSFER_ENCODING:
            self._transfer_coding = value.lower() if self._transfer_coding is None else b"more than one"
        elif value.lower() == b"100-continue":
            self.expects_continue = True

    def on_headers_complete(self) -> None:
        self._head_complete = True
        version = self._parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise Refused(505)
        self.is_http_1_0 = version == "1.0"
        if self._host_count != 1 and (self._host_count or not self.is_http_1_0):
            raise Refused(400)
        if self._transfer_coding is not None and (self._transfer_coding != b"chunked" or self.is_http_1_0):
            raise Refused(501)
        if self.target[:1] != b"/" or _FRAGMENT in self.target:
            raise Refused(400)
        if len(self.headers) > MAX_HEADERS or (self.received > MAX_HEAD_BYTES and self._size() > MAX_HEAD_BYTES):
            raise Refused(431)
        self.unfinished = 0
        self.keeps_alive = not self.is_http_1_0 and bool(self._parser.should_keep_alive())
        self.asks_for_upgrade = bool(self._parser.should_upgrade())
        sent = self._parser.get_method()
        self.method = _METHODS.get(sent) or sent.decode("ascii")
        self._connection.on_head(self)

    def _size(self) -> int:
        return len(self.target) + sum([len(name) + len(value) for name, value in self.headers])


class _BodyCallbacks:
    """The callbacks of a parser that reads only a request body."""

    def __init__(self, parser: RequestParser) -> None:
        self._begun = False
        self.on_body = parser.on_body
        self.on_message_complete = parser.on_message_complete

    def on_message_begin(self) -> None:
        if self._begun:
            raise Pipelined
        self._begun = True
