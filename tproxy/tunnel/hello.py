"""The first word on a stream: the laptop says who it is, the node answers, and both know the version they speak.

Exactly one batch with one HELLO goes to the node, exactly one with one WELCOME comes back; nothing else is accepted
before. The transport carries refusals (as gRPC statuses), this module decides them.
"""

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from tproxy.rpc.v1.tunnel_pb2 import Batch, Frame
from tproxy.rpc.v1.tunnel_pb2 import Hello as HelloMessage
from tproxy.rpc.v1.tunnel_pb2 import Welcome as WelcomeMessage
from tproxy.version import VERSION

PROTOCOL_VERSION = 1
"""The highest version of the protocol that this software speaks."""
MIN_PROTOCOL_VERSION = 1
"""The lowest one."""

TOKEN_BYTES = 32
MAX_HELLO_BYTES = 4096
"""Larger first batches are refused unparsed."""
MAX_NAME_CHARACTERS = 253
MAX_SOFTWARE_CHARACTERS = 64


class HandshakeError(Exception):
    """The peer's first batch is not what it must be. The text is safe to log: it carries nothing the peer sent."""


class VersionMismatchError(HandshakeError):
    """No common version of the protocol. Says which side is the older one."""

    def __init__(self, laptop: tuple[int, int], node: tuple[int, int]) -> None:
        older = "laptop" if laptop[1] < node[0] else "node"
        super().__init__(
            f"the laptop speaks protocol versions {laptop[0]} to {laptop[1]}, "
            f"the node {node[0]} to {node[1]}: upgrade tproxy on the {older}"
        )
        self.older = older


@dataclass(frozen=True, slots=True)
class Hello:
    """What a laptop says first. `token` is the session's secret: it is never logged, nor part of `repr`."""

    namespace: str
    session: str
    token: bytes = field(repr=False)
    version: int = PROTOCOL_VERSION
    min_version: int = MIN_PROTOCOL_VERSION
    software: str = VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """The node's answer: `version` is spoken from here on."""

    version: int
    node: str
    software: str = VERSION


def encode_hello(hello: Hello) -> bytes:
    """The laptop's first batch."""
    body = HelloMessage(
        version=hello.version,
        min_version=hello.min_version,
        namespace=hello.namespace,
        session=hello.session,
        token=hello.token,
        software=hello.software,
    )
    return Batch(frames=[Frame(hello=body)]).SerializeToString()


def encode_welcome(welcome: Welcome) -> bytes:
    """The node's first batch."""
    body = WelcomeMessage(version=welcome.version, node=welcome.node, software=welcome.software)
    return Batch(frames=[Frame(welcome=body)]).SerializeToString()


def decode_hello(batch: bytes) -> Hello:
    """Read a laptop's first batch. Raises `HandshakeError`."""
    frame = _only_frame(batch)
    if frame.WhichOneof("body") != "hello" or frame.conn:
        raise HandshakeError("the first frame is not HELLO")
    body = frame.hello
    if not body.version or body.min_version > body.version:
        raise HandshakeError("HELLO names no protocol version")
    if not 0 < len(body.namespace) <= MAX_NAME_CHARACTERS or not 0 < len(body.session) <= MAX_NAME_CHARACTERS:
        raise HandshakeError("HELLO names no session")
    if len(body.token) != TOKEN_BYTES:
        raise HandshakeError("HELLO carries no token")
    if len(body.software) > MAX_SOFTWARE_CHARACTERS:
        raise HandshakeError("HELLO is too long")
    return Hello(body.namespace, body.session, body.token, body.version, body.min_version, body.software)


def decode_welcome(batch: bytes) -> Welcome:
    """Read the node's first batch. Raises `HandshakeError`."""
    frame = _only_frame(batch)
    if frame.WhichOneof("body") != "welcome" or frame.conn:
        raise HandshakeError("the first frame is not WELCOME")
    body = frame.welcome
    if not MIN_PROTOCOL_VERSION <= body.version <= PROTOCOL_VERSION:
        raise HandshakeError("WELCOME chose a protocol version that was not offered")
    return Welcome(body.version, body.node[:MAX_NAME_CHARACTERS], body.software[:MAX_SOFTWARE_CHARACTERS])


def negotiate(hello: Hello) -> int:
    """The version to speak with a laptop. Raises `VersionMismatchError`."""
    version = min(hello.version, PROTOCOL_VERSION)
    if version < max(hello.min_version, MIN_PROTOCOL_VERSION):
        raise VersionMismatchError((hello.min_version, hello.version), (MIN_PROTOCOL_VERSION, PROTOCOL_VERSION))
    return version


def _only_frame(batch: bytes) -> Frame:
    if len(batch) > MAX_HELLO_BYTES:
        raise HandshakeError("the first batch is too long")
    try:
        frames = Batch.FromString(batch).frames
    except DecodeError as error:
        raise HandshakeError("the first batch cannot be decoded") from error
    if len(frames) != 1:
        raise HandshakeError("the first batch does not hold one frame")
    return frames[0]
