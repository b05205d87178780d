"""Messages to start from: the smuggling corpus, requests as SDKs send them, responses as providers send them.

`fill` in tests/support/smuggling.py replaces PATH, HOST and AUTH.
"""

from __future__ import annotations

from tests.fuzz.parsers import seeds
from tests.support.smuggling import HARMLESS, REFUSED

_CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}],"stream":true}'
SDK_REQUESTS = (
    b"POST PATH/v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 2.9.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Retry-Count: 0\r\nAUTH\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_CHAT), _CHAT),
    b"POST PATH/v1/messages HTTP/1.1\r\nhost: HOST\r\nanthropic-version: 2023-06-01\r\n"
    b"content-type: application/json\r\n"
    b'AUTH\r\naccept: application/json\r\ncontent-length: 14\r\n\r\n{"a": "b\\n"}\r\n',
    b"POST PATH/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n"
    b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"POST PATH/v1/files HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Expect: 100-continue\r\nContent-Length: 65\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nabcd\r\n--b--\r\n',
    b"GET PATH/v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"DELETE PATH/v1/files/file-1 HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    b'HEAD PATH/v1/models HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nIf-None-Match: "a"\r\n\r\n',
    b"OPTIONS PATH/v1/models HTTP/1.1\r\nHost: HOST\r\nOrigin: https://a.example\r\n"
    b"Access-Control-Request-Method: POST\r\n\r\n",
    b"POST /signin/ HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 9\r\n\r\nemail=a%40b",
    b"GET /api/v1/me HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer pat_x\r\n\r\n",
)
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
RESPONSES = (
    _OK + b"Content-Length: 2\r\n\r\n{}",
    _OK + b"Transfer-Encoding: chunked\r\nx-request-id: req_1\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'e\r\ndata: {"a":1}\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\nX-Trailer: 1\r\n\r\n',
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    + _OK
    + b"Content-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\nx-ratelimit-remaining-requests: 5\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nEtag: "a"\r\nContent-Length: 7\r\n\r\n',
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v2/x\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nConnection: close\r\n\r\n{"error": {}}',
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi",
    _OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    _OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _OK + b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
)


def requests() -> list[bytes]:
    return [*REFUSED.values(), *(raw for raw, _ in HARMLESS.values()), *SDK_REQUESTS * 4, *seeds("requests")]


def responses() -> list[bytes]:
    return [*RESPONSES, *seeds("responses")]
