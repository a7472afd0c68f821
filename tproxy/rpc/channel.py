"""What both ends of the gRPC transport agree on: the method, and limits and windows of the HTTP/2 connection.

Batches are passed as bytes: `tproxy.tunnel.wire` writes and reads the protobuf encoding itself.
"""

METHOD = "/tproxy.v1.Tunnel/Connect"
SERVICE = "tproxy.v1.Tunnel"

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # Large frames are cheaper than many; a wide window spares a long path the slow start. Neither holds memory for
    # long: every batch is read at once, the tunnel's own credit is what limits.
    ("grpc.http2.max_frame_size", 1024 * 1024),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
]

CLIENT_OPTIONS = [
    *OPTIONS,
    # The address is a unix socket of ours, or is called direct: a proxy from the environment has no business here.
    ("grpc.enable_http_proxy", 0),
    # A channel per tunnel, a connection per channel: two tunnels to one address share nothing.
    ("grpc.use_local_subchannel_pool", 1),
    # A tunnel that ends is opened anew by whoever wants it, after a look at why.
    ("grpc.enable_retries", 0),
]

SERVER_OPTIONS = [
    *OPTIONS,
    # A second daemon on the same address must fail, not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 16),
    # Connections on which nobody says anything.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 30_000),
    # The tunnel's own PING decides who is dead; gRPC's only clears away connections whose peer will never read again.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]

EXPOSED_OPTIONS = [
    *SERVER_OPTIONS,
    # Where strangers can connect they must not be able to use up descriptors: those beyond are closed at once.
    ("grpc.max_allowed_incoming_connections", 1024),
]
