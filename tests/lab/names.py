"""A DNS server whose every answer says who it is: `python names.py --port 5353`, as `$POD`.

`N.size` asks for a text of N bytes behind that. It listens on UDP at every address.
"""

import argparse
import os
import socket

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

WHO = os.environ.get("POD", "?")


def text(name: str) -> list[str]:
    """As strings of a TXT record, which have at most 255 bytes each."""
    size = int(name.split(".")[0]) if name.endswith(".size.") else 0
    return [WHO, *("x" * min(255, size - at) for at in range(0, size, 255))]


def answer(query: bytes) -> bytes:
    message = dns.message.from_wire(query)
    response = dns.message.make_response(message)
    response.flags |= dns.flags.AA
    name = message.question[0].name
    quoted = " ".join(f'"{part}"' for part in text(name.to_text()))
    response.answer.append(dns.rrset.from_text(name, 0, "IN", "TXT", quoted))
    return response.to_wire(max_size=65535)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", parser.parse_args().port))
    while True:
        query, client = sock.recvfrom(65535)
        sock.sendto(answer(query), client)


if __name__ == "__main__":
    main()
