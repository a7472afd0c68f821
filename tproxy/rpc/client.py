"""The laptop's end of the gRPC transport."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from tproxy.errors import ClusterError, DeniedError, TproxyError
from tproxy.model.direct import SERVER_NAME
from tproxy.rpc import status
from tproxy.rpc.calls import ClientCall
from tproxy.rpc.reach import trusting
from tproxy.rpc.stream import ClientStream
from tproxy.tunnel.endpoint import Conn, Endpoint, Stream, StreamLostError
from tproxy.tunnel.hello import HandshakeError, Hello, decode_welcome, encode_hello
from tproxy.tunnel.memory import keep_buffers
from tproxy.version import VERSION

CONNECT_SECONDS = 10.0
MAX_TEXT_CHARACTERS = 256


class IncompatibleError(ClusterError):
    """The node daemon speaks no version of the protocol that we do: trying again will not help."""


class Opened(Stream, Protocol):
    """A stream that is read batch by batch, too, until the handshake is done."""

    async def read(self) -> bytes | None:
        """The peer's next batch, or None when it sends no more. Raises `StreamLostError`."""


Opening = Callable[[str, bytes | None], Awaitable[Opened]]
"""Makes the stream to a target, by TLS if there is a certificate. Raises OSError and `StreamLostError`."""


async def connect(
    target: str,
    hello: Hello,
    on_open: Callable[[Conn], None],
    certificate: bytes | None = None,
    opening: Opening | None = None,
) -> Endpoint:
    """Open a tunnel to the node daemon at `target` (`unix:/path` or `host:port`).

    With `certificate` (DER) by TLS, to whoever shows exactly that one; without, in the clear. `opening` is
    `open_stream` unless something else is to carry the tunnel.

    Raises `DeniedError` if the node does not accept the session's token, `IncompatibleError` if it speaks no common
    version of the protocol, `ClusterError` if it cannot be reached or does not answer in `CONNECT_SECONDS`.
    """
    keep_buffers()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            stream = await (opening or open_stream)(target, certificate)
            try:
                await stream.write(encode_hello(hello))
                first = await stream.read()
                if first is None:
                    raise HandshakeError("the node daemon ended the tunnel before its WELCOME")
                welcome = decode_welcome(first)
            except BaseException:
                stream.abort("")
                raise
    except RefusedError as error:
        raise _explain(error) from error
    except TimeoutError as error:
        raise ClusterError("the node daemon does not answer", "look at it with `tproxy doctor`") from error
    except HandshakeError as error:
        raise ClusterError(str(error), "compare the versions with `tproxy version`") from error
    except (StreamLostError, OSError) as error:  # ssl.SSLError is an OSError
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ClusterError(
            f"cannot reach the node daemon: {why[:MAX_TEXT_CHARACTERS]}", "look at it with `tproxy doctor`"
        ) from error
    endpoint = Endpoint(stream, laptop=True, on_open=on_open)
    endpoint.peer_software = welcome.software
    return endpoint


async def open_stream(target: str, certificate: bytes | None) -> ClientStream:
    """A stream on a connection of its own. Raises OSError."""
    loop = asyncio.get_running_loop()
    unix = target.removeprefix("unix:") if target.startswith("unix:") else ""
    scheme = "http" if certificate is None else "https"
    call = ClientCall("localhost" if unix else target, f"tproxy/{VERSION}", scheme)
    stream = ClientStream(call, RefusedError)
    if unix:
        await loop.create_unix_connection(lambda: stream, unix)
        return stream
    host, _, port = target.rpartition(":")
    context, name = None, None
    if certificate is not None:
        context, name = trusting(certificate), SERVER_NAME
        context.set_alpn_protocols(["h2"])
    transport, _ = await loop.create_connection(
        lambda: stream, host.strip("[]"), int(port), ssl=context, server_hostname=name
    )
    if certificate is not None and transport.get_extra_info("ssl_object").getpeercert(True) != certificate:
        stream.abort("")
        raise ConnectionRefusedError("it shows another certificate than the one it published")
    return stream


class RefusedError(StreamLostError):
    """The call ended with a status."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details or f"the node daemon ended the tunnel with status {code}")
        self.code = code


def _explain(error: RefusedError) -> TproxyError:
    details = str(error)
    match error.code:
        case status.UNAUTHENTICATED | status.PERMISSION_DENIED:
            return DeniedError(f"the node daemon refused the session: {details}", "start afresh with `tproxy quit`")
        case status.FAILED_PRECONDITION:
            return IncompatibleError(details, "compare the versions with `tproxy version`")
        case _:
            return ClusterError(f"cannot reach the node daemon: {details}", "look at it with `tproxy doctor`")
