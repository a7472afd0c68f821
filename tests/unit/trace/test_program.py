"""Where things are on this kernel, as the program that traces names them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from tproxy.errors import TproxyError
from tproxy.trace import program
from tproxy.trace.btf import Btf
from tproxy.trace.program import HOOKS, definitions

SOURCE = (Path(__file__).resolve().parents[3] / "bpf" / "trace" / "tcp.c").read_text()
FIELDS = {
    "sock:inet_sock_set_state": {"skaddr": 8, "oldstate": 16, "newstate": 20, "sport": 24, "protocol": 30},
    "tcp:tcp_retransmit_skb": {"skaddr": 16},
    "tcp:tcp_retransmit_synack": {"req": 16},
    "tcp:tcp_send_reset": {"skbaddr": 8, "skaddr": 16, "reason": 28},
    "tcp:tcp_receive_reset": {"skaddr": 8},
    "skb:kfree_skb": {"skbaddr": 8, "rx_sk": 24, "protocol": 32, "reason": 36},
}


class Kernel:
    """A kernel's description of itself."""

    def __init__(self, lacks: str = "") -> None:
        self._lacks = lacks

    def offset(self, struct: str, *path: str) -> int:
        if path[-1] == self._lacks:
            raise KeyError(f"struct {struct} has no {path[-1]}")
        return 4

    def enumeration(self, name: str) -> Mapping[int, str]:
        if name == self._lacks:
            raise KeyError(name)
        return {7: "SKB_DROP_REASON_QUEUE_PURGE"} if name == "skb_drop_reason" else {}


def defined(lacks: str = "", fields: Mapping[str, Mapping[str, int]] = FIELDS) -> Mapping[str, int]:
    return definitions(cast(Btf, Kernel(lacks)), lambda tracepoint: fields[tracepoint])


def test_all_that_the_program_asks_for_and_no_more() -> None:
    names = set(re.findall(r"\b(?:FIELD|OFFSET|REASON)_[A-Z0-9_]+\b", SOURCE))
    assert set(defined()) == names
    assert defined()["FIELD_DROP_REASON"] == 36
    assert defined()["REASON_QUEUE_PURGE"] == 7


def test_what_older_kernels_lack() -> None:
    older = {name: {k: v for k, v in fields.items() if k not in ("reason", "rx_sk")} for name, fields in FIELDS.items()}
    missing = set(defined()) - set(defined("skb_drop_reason", older))
    assert missing == {"FIELD_RESET_SENT_REASON", "FIELD_DROP_REASON", "FIELD_DROP_RECEIVER"}
    assert program.reasons(cast(Btf, Kernel("skb_drop_reason"))).drop(3) == "reason 3"


def test_a_kernel_that_is_too_different() -> None:
    with pytest.raises(TproxyError, match="does not know its way about this kernel: struct sk_buff has no head"):
        defined("head")


def test_hooks_are_functions_of_the_program() -> None:
    assert {function for _, function, _ in HOOKS} == set(re.findall(r"^int (tproxy_\w+)\(void \*ctx\)", SOURCE, re.M))
    assert all(len(function) <= 15 for _, function, _ in HOOKS), "the kernel keeps no more of a name"
