"""Where one HTTP/1 message ends and the next begins (RFC 9112); pure, no sockets."""

import re

_REQUEST_LINE = re.compile(rb"[A-Z]{3,7} [^\x00-\x20\x7f]{1,8000} HTTP/1\.[01]\r?\n")
_HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:|\r?\n|[!#$%&'*+.^_`|~0-9A-Za-z-]*\Z|\r?\Z")


def begins_request(data: bytes | bytearray) -> bool:
    """Whether `data` begins like an HTTP/1 request: with a request line, and then a header or the empty line."""
    line = _REQUEST_LINE.match(data)
    return line is not None and _HEADER_LINE.match(data, line.end()) is not None
