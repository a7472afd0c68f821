"""The tunnel's gRPC transport.

gRPC's core reads its settings from the environment when it is imported, so they are made here, before any module of
this package can import it. Its newer I/O engine passes every message through two threads of its own before ours, the
classic poller through one. Measured: half the context switches, 85 µs instead of 180 per round trip on the loopback,
1.5 GB/s instead of 0.9.
"""

import os

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener,-event_engine_callback_cq")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would write to stderr past every logging configuration
