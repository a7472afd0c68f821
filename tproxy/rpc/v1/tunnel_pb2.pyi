from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Batch(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("conn", "hello", "welcome", "open", "opened", "data", "credit", "fin", "reset", "datagram", "ping", "pong")
    CONN_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    FIN_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    DATAGRAM_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    conn: int
    hello: Hello
    welcome: Welcome
    open: Open
    opened: Opened
    data: bytes
    credit: int
    fin: Fin
    reset: Reset
    datagram: bytes
    ping: int
    pong: int
    def __init__(self, conn: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., data: _Optional[bytes] = ..., credit: _Optional[int] = ..., fin: _Optional[_Union[Fin, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., datagram: _Optional[bytes] = ..., ping: _Optional[int] = ..., pong: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "min_version", "namespace", "session", "token", "software")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    version: int
    min_version: int
    namespace: str
    session: str
    token: bytes
    software: str
    def __init__(self, version: _Optional[int] = ..., min_version: _Optional[int] = ..., namespace: _Optional[str] = ..., session: _Optional[str] = ..., token: _Optional[bytes] = ..., software: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "node", "software")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    version: int
    node: str
    software: str
    def __init__(self, version: _Optional[int] = ..., node: _Optional[str] = ..., software: _Optional[str] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("host", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("kind", "protocol", "source", "destination", "intercept", "pod", "credit", "container")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Open.Kind]
        KIND_INBOUND: _ClassVar[Open.Kind]
        KIND_DIAL: _ClassVar[Open.Kind]
        KIND_READ: _ClassVar[Open.Kind]
        KIND_ASK: _ClassVar[Open.Kind]
    KIND_UNSPECIFIED: Open.Kind
    KIND_INBOUND: Open.Kind
    KIND_DIAL: Open.Kind
    KIND_READ: Open.Kind
    KIND_ASK: Open.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    kind: Open.Kind
    protocol: str
    source: Address
    destination: Address
    intercept: str
    pod: str
    credit: int
    container: str
    def __init__(self, kind: _Optional[_Union[Open.Kind, str]] = ..., protocol: _Optional[str] = ..., source: _Optional[_Union[Address, _Mapping]] = ..., destination: _Optional[_Union[Address, _Mapping]] = ..., intercept: _Optional[str] = ..., pod: _Optional[str] = ..., credit: _Optional[int] = ..., container: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("credit",)
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    credit: int
    def __init__(self, credit: _Optional[int] = ...) -> None: ...

class Fin(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Reset(_message.Message):
    __slots__ = ("reason", "detail")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Reset.Reason]
        REASON_RESET: _ClassVar[Reset.Reason]
        REASON_REFUSED: _ClassVar[Reset.Reason]
        REASON_UNREACHABLE: _ClassVar[Reset.Reason]
        REASON_TIMED_OUT: _ClassVar[Reset.Reason]
        REASON_NO_SUCH_HOST: _ClassVar[Reset.Reason]
        REASON_DENIED: _ClassVar[Reset.Reason]
        REASON_LIMIT: _ClassVar[Reset.Reason]
        REASON_TUNNEL_LOST: _ClassVar[Reset.Reason]
        REASON_INTERNAL: _ClassVar[Reset.Reason]
    REASON_UNSPECIFIED: Reset.Reason
    REASON_RESET: Reset.Reason
    REASON_REFUSED: Reset.Reason
    REASON_UNREACHABLE: Reset.Reason
    REASON_TIMED_OUT: Reset.Reason
    REASON_NO_SUCH_HOST: Reset.Reason
    REASON_DENIED: Reset.Reason
    REASON_LIMIT: Reset.Reason
    REASON_TUNNEL_LOST: Reset.Reason
    REASON_INTERNAL: Reset.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: Reset.Reason
    detail: str
    def __init__(self, reason: _Optional[_Union[Reset.Reason, str]] = ..., detail: _Optional[str] = ...) -> None: ...
