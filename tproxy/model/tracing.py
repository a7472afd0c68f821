"""What can be traced, and how much at a time."""

EVENTS = ("state", "retransmit", "reset-sent", "reset-received", "drop", "overflow", "steer")
"""Changes of a socket's state; packets sent again; resets; packets that the kernel dropped; accept queues that had no
room; what steering decided."""

RATE = 1000
MAX_RATE = 20_000
"""Events in a second that are shown; the rest is counted."""

SECONDS = 600
MAX_SECONDS = 3600
"""How long somebody who forgets it traces, or captures."""

SNAP_LENGTH = 262_144
"""Bytes of a packet that are kept: all of them, as of segments that the kernel has put together."""

MAX_PACKETS = 10_000_000
