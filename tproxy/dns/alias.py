"""Short names, as programs know them in a pod by its search list, for a laptop that does not search there. Pure."""

import struct
from collections.abc import Callable

from tproxy.dns import wire
from tproxy.model.resolv_conf import ResolvConf

MOST_RECORDS = 100


def expanded(name: str, cluster: ResolvConf, has_service: Callable[[str, str], bool]) -> str:
    """The full name that `name` stands for in a pod with this configuration, if a Service is behind it; else empty.

    `has_service` takes namespace and name. Covered is what the search list completes: `web`, `web.shop`,
    `web.shop.svc`, `web-0.web.shop`, `_http._tcp.web`.
    """
    suffix = f".svc.{cluster.cluster_domain}"
    if not name or name.endswith(f".{cluster.cluster_domain}") or name.partition(".")[0] == "wpad":
        return ""
    for domain in cluster.search:
        full = f"{name}.{domain}"
        if full.endswith(suffix):
            labels = full.removesuffix(suffix).split(".")
            if len(labels) >= 2 and has_service(labels[-1], labels[-2]):
                return full
    return ""


def renamed(query: bytes, answer: bytes) -> bytes:
    """`answer`, which is to the same question of a longer name, as an answer to `query`.

    Addresses and SRV records are kept, all under the name that was asked for; other records are left out. Raises
    `wire.MalformedError`.
    """
    asked = wire.question(query)
    records = []
    for record in wire.records(answer)[:MOST_RECORDS]:
        if record.section or record.cls != 1 or record.kind != asked.kind:
            continue
        data = answer[record.start : record.start + record.size]
        if record.kind == wire.SRV and record.size > 6:
            data = data[:6] + wire.packed_name(wire.name_at(answer, record.start + 6))
        elif record.kind not in (wire.A, wire.AAAA):
            continue
        records.append(struct.pack("!HHHIH", 0xC000 | wire.HEADER, record.kind, 1, record.ttl, len(data)) + data)
    flags = bytes((answer[2] & 0xFE | query[2] & 0x01, answer[3]))
    head = query[:2] + flags + struct.pack("!HHHH", 1, len(records), 0, 0)
    return head + query[wire.HEADER : asked.end] + b"".join(records)
