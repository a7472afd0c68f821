"""The kernel program `bpf/trace/tcp.c`: compiled by bcc for this kernel, attached, read; gone with the process."""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tproxy.errors import TproxyError
from tproxy.trace import bcc, report
from tproxy.trace.btf import Btf
from tproxy.trace.headers import Headers
from tproxy.trace.report import KINDS, Names

SOURCE = Path(__file__).with_name("tcp.c")
RING_PAGES = 64
"""Of 4 KiB, a power of two: room for some 1,900 reports."""

LOST, OMITTED = len(KINDS), len(KINDS) + 1

# Which tracepoint calls which function of the program, for which kind of event.
HOOKS = (
    ("sock:inet_sock_set_state", "tproxy_state", "state"),
    ("tcp:tcp_retransmit_skb", "tproxy_retrans", "retransmit"),
    ("tcp:tcp_retransmit_synack", "tproxy_synack", "retransmit"),
    ("tcp:tcp_send_reset", "tproxy_rst_sent", "reset-sent"),
    ("tcp:tcp_receive_reset", "tproxy_rst_recv", "reset-received"),
    ("skb:kfree_skb", "tproxy_drop", "drop"),
)

# What the program calls a field, the tracepoint, and its name there; the optional ones came later.
_FIELDS = (
    ("STATE_SOCK", "sock:inet_sock_set_state", "skaddr"),
    ("STATE_OLD", "sock:inet_sock_set_state", "oldstate"),
    ("STATE_NEW", "sock:inet_sock_set_state", "newstate"),
    ("STATE_LOCAL_PORT", "sock:inet_sock_set_state", "sport"),
    ("STATE_PROTOCOL", "sock:inet_sock_set_state", "protocol"),
    ("RETRANSMIT_SOCK", "tcp:tcp_retransmit_skb", "skaddr"),
    ("SYNACK_REQUEST", "tcp:tcp_retransmit_synack", "req"),
    ("RESET_SENT_SOCK", "tcp:tcp_send_reset", "skaddr"),
    ("RESET_SENT_PACKET", "tcp:tcp_send_reset", "skbaddr"),
    ("RESET_RECEIVED_SOCK", "tcp:tcp_receive_reset", "skaddr"),
    ("DROP_PACKET", "skb:kfree_skb", "skbaddr"),
    ("DROP_PROTOCOL", "skb:kfree_skb", "protocol"),
)
_OPTIONAL_FIELDS = (
    ("RESET_SENT_REASON", "tcp:tcp_send_reset", "reason"),
    ("DROP_REASON", "skb:kfree_skb", "reason"),
    ("DROP_RECEIVER", "skb:kfree_skb", "rx_sk"),
)

# What the program calls an offset, the structure and the way to the member.
_OFFSETS = (
    ("NET_INODE", "net", ("ns", "inum")),
    ("SOCK_NET", "sock", ("__sk_common", "skc_net", "net")),
    ("SOCK_LOCAL_PORT", "sock", ("__sk_common", "skc_num")),
    ("SOCK_REMOTE_PORT", "sock", ("__sk_common", "skc_dport")),
    ("SOCK_FAMILY", "sock", ("__sk_common", "skc_family")),
    ("SOCK_LOCAL4", "sock", ("__sk_common", "skc_rcv_saddr")),
    ("SOCK_REMOTE4", "sock", ("__sk_common", "skc_daddr")),
    ("SOCK_LOCAL6", "sock", ("__sk_common", "skc_v6_rcv_saddr")),
    ("SOCK_REMOTE6", "sock", ("__sk_common", "skc_v6_daddr")),
    ("SOCK_STATE", "sock", ("__sk_common", "skc_state")),
    ("SKB_HEAD", "sk_buff", ("head",)),
    ("SKB_NETWORK_HEADER", "sk_buff", ("network_header",)),
    ("SKB_DEVICE", "sk_buff", ("dev",)),
    ("SKB_PROTOCOL", "sk_buff", ("protocol",)),
    ("SKB_SOCK", "sk_buff", ("sk",)),
    ("SKB_LENGTH", "sk_buff", ("len",)),
    ("DEVICE_NET", "net_device", ("nd_net", "net")),
)

Definitions = Mapping[str, int]


def definitions(btf: Btf, fields: Callable[[str], Mapping[str, int]]) -> Definitions:
    """Where things are on this kernel, as the program names them. Raises TproxyError."""
    found: dict[str, int] = {}
    try:
        for name, struct, path in _OFFSETS:
            found[f"OFFSET_{name}"] = btf.offset(struct, *path)
        for name, tracepoint, field in _FIELDS:
            found[f"FIELD_{name}"] = fields(tracepoint)[field]
    except KeyError as error:
        raise TproxyError(f"tracing does not know its way about this kernel: {error.args[0]}") from error
    for name, tracepoint, field in _OPTIONAL_FIELDS:
        if field in (known := fields(tracepoint)):
            found[f"FIELD_{name}"] = known[field]
    purged = {name: number for number, name in reasons(btf).drops.items()}
    return found | {"REASON_QUEUE_PURGE": purged.get("QUEUE_PURGE", 0)}


def reasons(btf: Btf) -> Names:
    """What this kernel calls its reasons; older ones give none."""

    def of(enumeration: str, prefix: str) -> dict[int, str]:
        with contextlib.suppress(KeyError):
            return report.plain(btf.enumeration(enumeration), prefix)
        return {}

    return Names(of("skb_drop_reason", "SKB_DROP_REASON_"), of("sk_rst_reason", "SK_RST_REASON_"))


class Program:
    """In the kernel, attached, for `namespaces` (inodes; more may be added later) and for `port` (0: all of them).

    `on_report` gets each report's bytes, from within `poll`. Raises TproxyError.
    """

    def __init__(
        self,
        headers: Headers,
        defined: Definitions,
        kinds: Collection[str],
        port: int,
        rate: int,
        on_report: Callable[[bytes], None],
    ) -> None:
        module = bcc.load()
        flags = [f"-D{name}={value}" for name, value in {**defined, "PORT": port, "RATE": rate}.items()]
        flags += [f"-DRING_PAGES={RING_PAGES}", "-Wno-macro-redefined", *headers.flags()]
        os.environ["BCC_KERNEL_SOURCE"] = str(headers.source)
        try:
            self._bpf: Any = module.BPF(text=SOURCE.read_text(), cflags=flags)
            for tracepoint, function, kind in HOOKS:
                if kind in kinds:
                    self._bpf.attach_tracepoint(tp=tracepoint, fn_name=function)
            self._bpf["tproxy_reports"].open_ring_buffer(lambda _, data, size: on_report(ctypes.string_at(data, size)))
        except Exception as error:  # bcc raises nothing more specific; what the compiler said is on stderr
            raise TproxyError(
                f"bcc cannot trace this kernel: {error}", f"the headers were those of {headers.source}"
            ) from error

    def watch(self, namespaces: Iterable[int]) -> None:
        """Report of these too from now on."""
        table = self._bpf["tproxy_traced"]
        for inode in namespaces:
            table[ctypes.c_uint32(inode)] = ctypes.c_uint8(1)

    def forget(self, namespaces: Iterable[int]) -> None:
        """No longer of these."""
        table = self._bpf["tproxy_traced"]
        for inode in namespaces:
            with contextlib.suppress(KeyError):
                del table[ctypes.c_uint32(inode)]

    def poll(self, milliseconds: int) -> None:
        """Take the reports that there are; wait so long for the first one."""
        self._bpf.ring_buffer_poll(milliseconds)

    def totals(self) -> list[int]:
        """Events by kind, as in `KINDS`; then reports lost, and left out."""
        return self._sums("tproxy_totals")

    def drops(self) -> dict[int, int]:
        """Packets dropped, by reason."""
        return {number: count for number, count in enumerate(self._sums("tproxy_reasons")) if count}

    def connects(self) -> list[int]:
        """How long handshakes took that began here, by `histogram.slot`."""
        return self._sums("tproxy_connects")

    def opens(self) -> list[int]:
        """How long connections were open that have closed."""
        return self._sums("tproxy_opens")

    def _sums(self, table: str) -> list[int]:
        return [sum(per_cpu) for per_cpu in self._bpf[table].values()]


def monotonic_zero() -> float:
    """When CLOCK_MONOTONIC was zero, in seconds since 1970; events carry that clock's time."""
    return time.time() - time.monotonic()
