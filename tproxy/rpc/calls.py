"""Either side's half of the one call that a tunnel is: what it asks for, answers, and ends with (gRPC over HTTP/2).

The bytes are those of any other implementation of gRPC.
"""

from collections.abc import Callable
from urllib.parse import quote, unquote

from tproxy.http.h2 import frames
from tproxy.http.h2.frames import FaultError
from tproxy.rpc.http2 import Call, Fields
from tproxy.rpc.status import UNAVAILABLE, UNIMPLEMENTED, UNKNOWN

METHOD = "/tproxy.v1.Tunnel/Connect"
CONTENT = "application/grpc"

MAX_DETAILS_CHARACTERS = 256


class ClientCall(Call):
    """The laptop's half: the request is in `output` from the beginning."""

    def __init__(self, authority: str, user_agent: str, scheme: str) -> None:
        super().__init__(client=True)
        request = [(":method", "POST"), (":scheme", scheme), (":path", METHOD), (":authority", authority)]
        request += [("te", "trailers"), ("content-type", CONTENT), ("user-agent", user_agent)]
        self.send_headers(request)

    def _fields(self, fields: Fields, end: bool) -> None:
        if "grpc-status" in fields:
            status = fields["grpc-status"]
            details = unquote(fields.get("grpc-message", ""), errors="replace")[:MAX_DETAILS_CHARACTERS]
            self._finished(int(status) if status.isdecimal() and len(status) < 4 else UNKNOWN, details)
        elif fields.get(":status", "200") != "200" or not fields.get("content-type", CONTENT).startswith(CONTENT):
            self._finished(UNAVAILABLE, "the answer is not gRPC")
        elif end:
            self._finished(UNKNOWN)


class ServerCall(Call):
    """The node's half. `on_request` is called when a client has asked for the tunnel; for anything else it is told
    that there is no such thing."""

    def __init__(self) -> None:
        super().__init__(client=False)
        self.on_request: Callable[[], None] = lambda: None
        self._requested = False
        self._answered = False

    def send(self, message: bytes) -> None:
        """As any call's, after the header fields of the answer."""
        if not self._answered:
            self._answered = True
            self.send_headers([(":status", "200"), ("content-type", CONTENT)])
        super().send(message)

    def end(self, status: int, details: str) -> None:
        """Say how the call ended, after all messages that the peer's window has let through."""
        if self._ended or not self._stream:
            return
        self._unsent.clear()
        fields = [] if self._answered else [(":status", "200"), ("content-type", CONTENT)]
        message = quote(details[:MAX_DETAILS_CHARACTERS], safe=" !#$&'()*+,/:;=?@[]\"<>`{}|^\\")
        self.send_headers([*fields, ("grpc-status", str(status)), ("grpc-message", message)], end=True)
        if not self._over:
            self._over = True
            self.output.append(frames.rst_stream(self._stream, frames.NO_ERROR))

    def _fields(self, fields: Fields, end: bool) -> None:
        if self._requested:
            if not end:
                raise FaultError(frames.PROTOCOL_ERROR, "a second request on a stream")
            self._finished()
            return
        self._requested = True
        if fields.get(":method") != "POST" or fields.get(":path") != METHOD:
            self.end(UNIMPLEMENTED, "there is no such method")
            self.on_end(UNIMPLEMENTED, "")
            return
        self.on_request()
        if end:
            self._finished()
