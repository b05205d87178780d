"""The corpus of request smuggling: raw requests that parsers read differently, and unusual ones that they do not."""

from __future__ import annotations

from tests.support.running import Endpoint

# `fill` replaces PATH, HOST and AUTH. `SMUGGLED` is a second request that must not arrive.
SMUGGLED = b"GET PATH/smuggled HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n"
CHUNKED = b"POST PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST PATH/x HTTP/" + version + b"\r\nHost: HOST\r\nAUTH\r\n" + head + b"\r\n" + body


# Requests that two parsers could read differently.
REFUSED = {
    "content-length and chunked": post(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "chunked and content-length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two equal content-lengths": post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "two different content-lengths": post(b"Content-Length: 3", b"Content-Length: 60", body=b"abc" + SMUGGLED),
    "a list of content-lengths": post(b"Content-Length: 3, 3", body=b"abc"),
    "content-length with a sign": post(b"Content-Length: +3", body=b"abc"),
    "negative content-length": post(b"Content-Length: -1", body=b"abc"),
    "hexadecimal content-length": post(b"Content-Length: 0x3", body=b"abc"),
    "content-length of letters": post(b"Content-Length: abc", body=b"abc"),
    "empty content-length": post(b"Content-Length:", body=b"abc"),
    "content-length with an inner space": post(b"Content-Length: 3 3", body=b"abc"),
    "overflowing content-length": post(b"Content-Length: 18446744073709551619", body=b"abc"),
    "space before the colon of content-length": post(b"Content-Length : 3", body=b"abc"),
    "space before the colon of transfer-encoding": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "tab before the colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "vertical tab before chunked": post(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"),
    "unknown transfer coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "coding before chunked": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "coding after chunked": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked and identity on two lines": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"
    ),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "empty transfer-encoding": post(b"Transfer-Encoding:", body=b"0\r\n\r\n" + SMUGGLED),
    "folded transfer-encoding": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "chunked in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED, version=b"1.0"),
    "two hosts": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\nAUTH\r\n\r\n",
    "two equal hosts": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "no host": b"GET PATH/x HTTP/1.1\r\nAUTH\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET PATH/x HTTP/1.0\r\nHost: HOST\r\nHost: b\r\nAUTH\r\n\r\n",
    "absolute target": b"GET http://HOSTPATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "absolute target of another host": b"GET http://evil.examplePATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "target without a slash": b"GET x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "asterisk as target": b"OPTIONS * HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "authority as target": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "fragment in the target": b"GET PATH/x#y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "fragment behind the query": b"GET PATH/x?a#y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "space in the target": b"GET PATH/x y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "tab in the target": b"GET PATH/x\ty HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "NUL in the target": b"GET PATH/x\x00y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "bytes beyond ASCII in the target": b"GET PATH/caf\xc3\xa9 HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "folded header": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\r\n Content-Length: 40\r\n\r\n",
    "folded first header": b"GET PATH/x HTTP/1.1\r\n Host: HOST\r\nAUTH\r\n\r\n",
    "bare line feeds": b"GET PATH/x HTTP/1.1\nHost: HOST\nAUTH\n\n",
    "one bare line feed": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\nX-B: 2\r\n\r\n",
    "bare carriage return": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\rContent-Length: 40\r\n\r\n",
    "NUL in a header value": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\x002\r\n\r\n",
    "NUL in a header name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX\x00A: 1\r\n\r\n",
    "DEL in a header value": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\x7f\r\n\r\n",
    "header without a name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n: 1\r\n\r\n",
    "header without a colon": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A\r\n\r\n",
    "space in a header name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX A: 1\r\n\r\n",
    "bytes beyond ASCII in a header name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX\xe9: 1\r\n\r\n",
    "HTTP/0.9": b"GET PATH/x\r\n\r\n",
    "HTTP/0.9 by number": b"GET PATH/x HTTP/0.9\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "HTTP/1.2": b"GET PATH/x HTTP/1.2\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "HTTP/2.0": b"GET PATH/x HTTP/2.0\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version in lower case": b"GET PATH/x http/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "space behind the version": b"GET PATH/x HTTP/1.1 \r\nHost: HOST\r\nAUTH\r\n\r\n",
    "unknown method": b"FOO PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "method in lower case": b"get PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "CONNECT in origin form": b"CONNECT PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "chunk size in hexadecimal notation": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size with a space before": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "overflowing chunk size": CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "chunk size ended by a line feed": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk without its line end": CHUNKED + b"3\r\nabcX0\r\n\r\n" + SMUGGLED,
    "chunk longer than its size": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "line feed in a chunk extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "content-length as a trailer": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "bare line feed in a trailer": CHUNKED + b"0\r\nX-A: 1\nX-B: 2\r\n\r\n",
}

OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
REFUSED |= {
    "offer of HTTP/2 with content-length and chunked": post(
        *OFFER, b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "offer of HTTP/2 with two content-lengths": post(
        *OFFER, b"Content-Length: 3", b"Content-Length: 60", body=b"abc" + SMUGGLED
    ),
    "offer of HTTP/2 with an unknown coding": post(*OFFER, b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "offer of HTTP/2 with a bad chunk size": post(
        *OFFER, b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n"
    ),
}

# Unusual requests with one reading, each with the body that the provider gets.
HARMLESS = {
    "empty line before the request": (b"\r\n\r\nGET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n", b""),
    "chunk extension": (CHUNKED + b"3;name=value\r\nabc\r\n0\r\n\r\n", b"abc"),
    "quoted chunk extension": (CHUNKED + b'3;a="\\"x"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "leading zeros of a chunk size": (CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\nAuthorization: Bearer x\r\nHost: evil\r\n\r\n", b"abc"),
    "coding in capitals": (CHUNKED.replace(b"chunked", b"Chunked") + b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "leading zeros of content-length": (post(b"Content-Length: 0003", body=b"abc"), b"abc"),
    "HTTP/1.0": (post(b"Content-Length: 3", body=b"abc", version=b"1.0"), b"abc"),
    "offer of HTTP/2": (
        b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + SMUGGLED,
        b"",
    ),
    "offer of HTTP/2 with a body": (post(*OFFER, b"Content-Length: 3", body=b"abc" + SMUGGLED), b"abc"),
    "offer of HTTP/2 with a chunked body": (
        post(*OFFER, b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n" + SMUGGLED),
        b"abc",
    ),
    "request behind a close": (
        post(b"Content-Length: 3", b"Connection: close", body=b"abc" + SMUGGLED),
        b"abc",
    ),
}


def fill(raw: bytes, endpoint: Endpoint) -> bytes:
    authorization = b"Authorization: Bearer " + endpoint.token.encode()
    return raw.replace(b"PATH", endpoint.path.encode()).replace(b"HOST", b"localhost").replace(b"AUTH", authorization)
