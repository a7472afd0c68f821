"""What both ends of the gRPC transport agree on: the method, and limits and windows of the HTTP/2 connection.

Batches are passed as bytes: `tproxy.tunnel.wire` writes and reads the protobuf encoding itself.
"""

METHOD = "/tproxy.v1.Tunnel/Connect"
SERVICE = "tproxy.v1.Tunnel"

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 8 * 1024),
    # The tunnel has its own PING: gRPC's would only add a second opinion about who is dead.
    ("grpc.keepalive_time_ms", 2**31 - 1),
]

CLIENT_OPTIONS = [
    *OPTIONS,
    # The address is a loopback or unix socket of ours; a proxy from the environment has no business here.
    ("grpc.enable_http_proxy", 0),
    # Every stream is its own connection: subchannels are not shared between channels to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]

SERVER_OPTIONS = [
    *OPTIONS,
    # A second daemon on the same address must fail, not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 16),
]
