"""Answers of our own to requests that nobody else answers."""

from urllib.parse import quote

from tproxy.http.exchange import ERROR_HEADER, Failure
from tproxy.http.h2.blocks import encode

UNAVAILABLE = b"14"
"""gRPC's status for a server that cannot be reached."""


def bad_gateway(failure: Failure) -> tuple[bytes, bytes]:
    """Header block and body of a 502 that says why."""
    body = f"tproxy: {failure.text}\n".encode()
    fields = (
        (b":status", b"502"),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (ERROR_HEADER.encode(), failure.slug.encode()),
    )
    return _block(fields), body


def grpc_unavailable(failure: Failure, started: bool) -> bytes:
    """Trailers by which a gRPC call ends, the whole answer unless it has `started` (gRPC over HTTP/2, Responses)."""
    message = quote(f"tproxy: {failure.text}", safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~\"\\").encode()
    fields = [(b"grpc-status", UNAVAILABLE), (b"grpc-message", message), (ERROR_HEADER.encode(), failure.slug.encode())]
    if not started:
        fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), *fields]
    return _block(fields)


def _block(fields: "tuple[tuple[bytes, bytes], ...] | list[tuple[bytes, bytes]]") -> bytes:
    return encode((name, value, False) for name, value in fields)
