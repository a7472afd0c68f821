"""Request streams of every kind that clients send, with what must become of them.

A stream is a sequence of messages. Each is for the app or for somebody's laptop; a strange one, which can be read in
more than one way, is for the app, and so is everything behind it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"5;name=value\r\nhello\r\n1a\r\n" + b"x" * 26 + b"\r\n0\r\nX-Sum: 1\r\n\r\n"
)
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + OK
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKS
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
SAME = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"
HEADLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
OLD = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"l" * 70000
ANSWERS = (OK, CHUNKS, HINTS, GO_ON, NOTHING, SAME, OLD, LONG)
DECLINED = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 3\r\n\r\nno!"
BODILESS = (HEADLESS, NOTHING, SAME)


@dataclass(frozen=True)
class Message:
    """`user` has a laptop, or is nobody. Those without an `answer` get none."""

    name: str
    data: bytes
    user: str = ""
    strange: bool = False
    answer: bytes = OK


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "".join(f"{each}\r\n" for each in (line, *fields, "")).encode("latin-1") + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks) + b"0\r\n" + trailers + b"\r\n"


TE = "Transfer-Encoding: chunked"
GET = "GET / HTTP/1.1"
POST = "POST /form?x=1 HTTP/1.1"
PLAIN: dict[str, bytes] = {
    "get": request(GET, "Host: shop"),
    "no fields": request(GET),
    "browser": request(
        "GET /api/items?limit=20 HTTP/1.1",
        "Host: shop.example.com",
        "Connection: keep-alive",
        'sec-ch-ua: "Chromium";v="128"',
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
        "Accept: text/html,*/*;q=0.8",
        "Cookie: session=0123456789abcdef; theme=dark",
    ),
    "query": request("GET /?a=b&c=d%20e HTTP/1.1", "Host: shop"),
    "absolute form": request("GET http://shop/x?y HTTP/1.1", "Host: shop"),
    "asterisk": request("OPTIONS * HTTP/1.1", "Host: shop"),
    "http/1.0 keep-alive": request("GET / HTTP/1.0", "Connection: keep-alive"),
    "odd blanks": request(GET, "Host:shop", "X-Odd: \t a  b\t "),
    "empty values": request(GET, "Host:", "X-Empty:", "X-Blank: "),
    "same field twice": request(GET, "Accept: a", "Accept: b"),
    "bytes beyond ascii": request(GET, "X-Name: \xe4\xff"),
    "names of all characters": request(GET, "a!#$%&'*+-.^_`|~0Z: 1"),
    "64 KiB of fields": request(GET, *(f"X-Field-{n}: {'v' * 1000}" for n in range(64))),
    "field of 60 KiB": request(GET, f"Cookie: {'c' * 60000}"),
    "long target": request(f"GET /{'p' * 8000} HTTP/1.1"),
    "length 0": request(POST, "Content-Length: 0"),
    "length 5": request(POST, "Content-Length: 5", body=b"hello"),
    "length with zeros": request(POST, "Content-Length: 0005", body=b"hello"),
    "a request as body": request(POST, "Content-Length: 37", body=request(GET, "X-User: ada", "A: 1")),
    "length 100000": request("PUT /blob HTTP/1.1", "Content-Length: 100000", body=bytes(range(250)) * 400),
    "chunked": request(POST, TE, body=chunked(b"hello", b"x" * 300)),
    "chunked, other case": request(POST, "transfer-ENCODING: Chunked", body=chunked(b"a")),
    "chunked, nothing": request(POST, TE, body=chunked()),
    "chunked, trailers": request(POST, TE, "Trailer: X-Sum", body=chunked(b"hello", trailers=b"X-Sum: 5\r\nY: z\r\n")),
    "chunked, extensions": request(POST, TE, body=b'5;a=b;c="d e"\r\nhello\r\n0;last\r\n\r\n'),
    "chunked, big hex": request(POST, TE, body=b"00A\r\n0123456789\r\n000\r\n\r\n"),
    "chunked, crlf in data": request(POST, TE, body=chunked(b"\r\n\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n")),
    "chunked, a megabyte": request(POST, TE, body=chunked(*(bytes([n]) * 65536 for n in range(16)))),
    "delete": request("DELETE /x HTTP/1.1"),
    "patch": request("PATCH /x HTTP/1.1", "Content-Length: 2", body=b"{}"),
    "webdav": request("PROPFIND /dav HTTP/1.1", "Depth: 1", "Content-Length: 4", body=b"<a/>"),
    "expect": request(POST, "Expect: 100-continue", "Content-Length: 5", body=b"hello"),
    "upgrade declined": request(GET, "Connection: Upgrade", "Upgrade: websocket"),
    "h2c declined": request(GET, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c/9", "HTTP2-Settings: AAAA"),
    "connect declined": request("CONNECT shop:443 HTTP/1.1", "Host: shop:443"),
}
STRANGE: dict[str, bytes] = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)) * 15,
    "proxy protocol 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request(GET, "X-User: ada"),
    "proxy protocol 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + request(GET, "X-User: ada"),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(100),
    "smtp": b"EHLO example.com\r\nMAIL FROM:<a@example.com>\r\n",
    "redis": b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "redis inline": b"PING\r\nGET a\r\n",
    "postgresql": b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    "memcached": b"get key\r\nset key 0 0 5\r\nhello\r\n",
    "zeros": bytes(1000),
    "http/0.9": b"GET /\r\n",
    "http/2.0": b"GET / HTTP/2.0\r\n\r\n",
    "http/1.2": b"GET / HTTP/1.2\r\n\r\n",
    "rtsp": b"OPTIONS rtsp://a RTSP/1.0\r\n\r\n",
    "lower case method": b"get / HTTP/1.1\r\n\r\n",
    "unknown method": b"ADA / HTTP/1.1\r\nX-User: ada\r\n\r\n",
    "bare lf": b"GET / HTTP/1.1\nX-User: ada\n\n",
    "bare lf in a field": b"GET / HTTP/1.1\r\nA: b\nX-User: ada\r\n\r\n",
    "bare lf at the end": b"GET / HTTP/1.1\r\nX-User: ada\r\n\nGET / HTTP/1.1\r\nX-User: ada\r\n\r\n",
    "bare cr": b"GET / HTTP/1.1\r\nA: b\rX-User: ada\r\n\r\n",
    "zero byte": b"GET / HTTP/1.1\r\nX-User: ada\0\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nX-User: ada\r\n\r\n",
    "blank in target": b"GET /a b HTTP/1.1\r\nX-User: ada\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nX-User: ada\r\n\r\n",
    "blank before the colon": request(GET, "X-User: ada", "Content-Length : 5", body=b"hello"),
    "no colon": request(GET, "X-User: ada", "nonsense"),
    "no name": request(GET, "X-User: ada", ": nonsense"),
    "blank in name": request(GET, "X-User: ada", "a b: c"),
    "obs-fold": b"GET / HTTP/1.1\r\nA: b\r\n c\r\nX-User: ada\r\n\r\n",
    "obs-fold by tab": b"GET / HTTP/1.1\r\nA:\r\n\tb\r\nX-User: ada\r\n\r\n",
    "blank before the first field": b"GET / HTTP/1.1\r\n X-User: ada\r\n\r\n",
    "two lengths": request(POST, "X-User: ada", "Content-Length: 5", "Content-Length: 6", body=b"hello!"),
    "same length twice": request(POST, "X-User: ada", "Content-Length: 5", "Content-Length: 5", body=b"hello"),
    "list of lengths": request(POST, "X-User: ada", "Content-Length: 5, 5", body=b"hello"),
    "length and chunked": request(POST, "X-User: ada", "Content-Length: 5", TE, body=chunked(b"hello")),
    "chunked and length": request(POST, "X-User: ada", TE, "Content-Length: 5", body=chunked(b"hello")),
    "signed length": request(POST, "X-User: ada", "Content-Length: +5", body=b"hello"),
    "hex length": request(POST, "X-User: ada", "Content-Length: 0x5", body=b"hello"),
    "no length": request(POST, "X-User: ada", "Content-Length:", body=b"hello"),
    "huge length": request(POST, "X-User: ada", f"Content-Length: {10**30}", body=b"hello"),
    "other coding": request(POST, "X-User: ada", "Transfer-Encoding: gzip, chunked", body=chunked(b"hello")),
    "unknown coding": request(POST, "X-User: ada", "Transfer-Encoding: xchunked", body=chunked(b"hello")),
    "chunked last but one": request(POST, "X-User: ada", "Transfer-Encoding: chunked, gzip", body=chunked(b"a")),
    "chunked twice": request(POST, "X-User: ada", TE, TE, body=chunked(b"hello")),
    "identity": request(POST, "X-User: ada", "Transfer-Encoding: identity", body=b"hello"),
    "chunked in http/1.0": request("POST / HTTP/1.0", "X-User: ada", TE, body=chunked(b"hello")),
    "connect with a body": request("CONNECT a:1 HTTP/1.1", "X-User: ada", "Content-Length: 5", body=b"hello"),
    "fields without end": request(GET, "X-User: ada", f"A: {'a' * 140000}"),
    "target without end": b"GET /" + b"a" * 140000,
}
BROKEN_CHUNKS: dict[str, bytes] = {
    "bad size": b"5\r\nhello\r\nnonsense\r\n",
    "signed size": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "bare lf": b"5\nhello\n0\n\n",
    "no crlf behind data": b"5\r\nhello0\r\n\r\n",
    "huge size": b"f" * 17 + b"\r\nhello",
    "size without end": b"5;" + b"x" * 10000,
    "bad trailer": b"0\r\nno colon\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailers without end": b"0\r\n" + b"A: b\r\n" * 20000,
}
USERS = ("", "ada", "eve")


def _for(user: str, data: bytes) -> bytes:
    """The same request with a user's header."""
    if not user:
        return data
    line, _, rest = data.partition(b"\r\n")
    return line + b"\r\nX-User: " + user.encode() + b"\r\n" + rest


def _messages() -> Iterator[Message]:
    for name, data in PLAIN.items():
        for user in USERS:
            answer = DECLINED if name == "connect declined" else OK
            yield Message(f"{name} for {user or 'all'}", _for(user, data), user, answer=answer)
    for user in USERS:
        head = request("HEAD / HTTP/1.1", "Host: shop")
        yield Message(f"head for {user or 'all'}", _for(user, head), user, answer=HEADLESS)
    for name, data in STRANGE.items():
        yield Message(name, data, strange=True, answer=b"")
    for name, data in BROKEN_CHUNKS.items():
        yield Message(f"chunked, {name}", request(POST, TE, body=data), strange=True, answer=b"")
    # Between requests, and the app's.
    yield Message("empty line", b"\r\n", answer=b"")
    yield Message("empty lines", b"\r\n\r\n\r\n", answer=b"")


MESSAGES = tuple(_messages())
Stream = Sequence[Message]


def _streams() -> Iterator[tuple[str, Stream]]:
    for message in MESSAGES:
        yield message.name, (message,)
    chance = random.Random("tproxy")
    ordinary = [message for message in MESSAGES if not message.strange and len(message.data) < 20000]
    for number in range(120):
        chosen = [_answered(chance, message) for message in chance.choices(ordinary, k=chance.randint(2, 8))]
        if number % 3 == 0:
            chosen.append(chance.choice([message for message in MESSAGES if message.strange]))
            chosen.append(chance.choice(ordinary))
        yield f"mixed {number}", tuple(chosen)


def _answered(chance: random.Random, message: Message) -> Message:
    if message.answer in (b"", DECLINED):
        return message
    head = message.name.startswith("head")
    return replace(message, answer=chance.choice(BODILESS if head else ANSWERS))


STREAMS = dict(_streams())
