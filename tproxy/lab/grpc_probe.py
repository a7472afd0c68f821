"""A gRPC health check (grpc.health.v1) as a kubelet makes it, on a connection of its own.

Like gRPC's own clients it says nothing of what it wants before the server has sent its SETTINGS.
"""

import asyncio
import socket

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

USER_AGENT = "kube-probe/1.34"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_PREFIX = 5  # of a message: a flag and its length
_MOST = 64 * 1024
_READ = 16 * 1024


async def grpc_health(sock: socket.socket, authority: str, service: str) -> str:
    """Why the check fails, or an empty string. Takes `sock`, which is connected. Raises OSError, ValueError."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        return await _check(reader, writer, authority, service)
    except h2.exceptions.ProtocolError as error:
        raise ValueError(f"the answer is not gRPC: {error}") from error
    finally:
        writer.close()


async def _check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, service: str) -> str:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    fields: dict[str, str] = {}
    answer = b""
    asked = False
    while True:
        data = await reader.read(_READ)
        if not data:
            return "the connection was closed without an answer"
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RemoteSettingsChanged) and not asked:
                asked = True
                _ask(connection, authority, service)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                fields |= {_text(name): _text(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                answer += event.data
                if len(answer) > _MOST:
                    return "the answer has no end"
            elif isinstance(event, h2.events.StreamEnded):
                return _judge(fields, answer)
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                return f"the server ended it with error {event.error_code}"
        writer.write(connection.data_to_send())


def _ask(connection: h2.connection.H2Connection, authority: str, service: str) -> None:
    request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    headers = [
        *(
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", authority),
        ),
        *(("content-type", "application/grpc"), ("user-agent", f"{USER_AGENT} grpc-go/1.72.0"), ("te", "trailers")),
    ]
    connection.send_headers(1, headers)
    connection.send_data(1, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)


def _judge(fields: dict[str, str], answer: bytes) -> str:
    status = fields.get("grpc-status")
    if fields.get(":status") != "200" or status is None:
        return "the answer is not gRPC"
    if status != "0":
        return f"gRPC status {status}: {fields.get('grpc-message', '')}".rstrip(": ")
    return "" if answer[_PREFIX:] == _SERVING else "the service is not serving"


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
