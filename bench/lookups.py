"""DNS look-ups as programs make them: one UDP socket each, so many at a time, at the first resolver of resolv.conf.

With `--new` for names that nobody has asked for before, and that there are not. Prints look-ups per second, their p50
in microseconds, and how many were lost, in the place it is started in.
"""

import argparse
import itertools
import secrets
import selectors
import socket
import statistics
import struct
import time

RESOLV_CONF = "/etc/resolv.conf"
LOST_SECONDS = 2.0
A, INTERNET, RECURSE = 1, 1, 0x0100
RCODE, NXDOMAIN = 0x000F, 3

_selector = selectors.EpollSelector()
_numbers = itertools.count(1)


def resolver() -> str:
    """The one programs ask first."""
    with open(RESOLV_CONF) as file:
        return next(line.split()[1] for line in file if line.startswith("nameserver"))


def question(name: str, new: bool) -> bytes:
    """What follows the ID of a query for an IPv4 address (RFC 1035 section 4.1)."""
    if new:
        name = f"{secrets.token_hex(6)}.{name}"
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!5H", RECURSE, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", A, INTERNET)


def ask(server: str, name: str, new: bool) -> None:
    """Begin one look-up."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.connect((server, 53))
    sock.send(struct.pack("!H", next(_numbers) & 0xFFFF) + question(name, new))
    _selector.register(sock, selectors.EVENT_READ, time.perf_counter())


def end(key: selectors.SelectorKey) -> float:
    """Seconds that it took."""
    sock = key.fileobj
    assert isinstance(sock, socket.socket)
    _selector.unregister(sock)
    sock.close()
    return time.perf_counter() - float(key.data)


def answered(key: selectors.SelectorKey, new: bool) -> None:
    """Fails unless it is an answer with an address, or for a new name one that says that there is no such."""
    assert isinstance(key.fileobj, socket.socket)
    _, flags, _, answers = struct.unpack("!4H", key.fileobj.recv(4096)[:8])
    if (flags & RCODE != NXDOMAIN) if new else (flags & RCODE or not answers):
        raise SystemExit(f"the resolver says {flags & RCODE}, with {answers} answers")


def main() -> None:
    """Look up for some seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--at-a-time", type=int, default=1)
    parser.add_argument("--new", action="store_true")
    options = parser.parse_args()
    server, name, new = resolver(), options.name, options.new
    took: list[float] = []
    lost = 0
    began = time.perf_counter()
    for _ in range(options.at_a_time):
        ask(server, name, new)
    while (now := time.perf_counter()) - began < options.seconds:
        for key, _ in _selector.select(LOST_SECONDS):
            answered(key, new)
            took.append(end(key))
            ask(server, name, new)
        for key in [one for one in _selector.get_map().values() if now - one.data > LOST_SECONDS]:
            end(key)
            lost += 1
            ask(server, name, new)
    seconds = time.perf_counter() - began
    if not took:
        raise SystemExit("no look-up was answered")
    print(f"{len(took) / seconds:.1f} {statistics.median(took) * 1e6:.1f} {lost}")


if __name__ == "__main__":
    main()
