"""Tracepoints as the kernel describes them."""

from pathlib import Path

import pytest

from tproxy.errors import TproxyError
from tproxy.trace import bcc, tracepoints
from tproxy.trace.overflow import Queue, counters

FORMAT = """name: kfree_skb
ID: 2310
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:void * skbaddr;	offset:8;	size:8;	signed:0;
	field:enum skb_drop_reason reason;	offset:36;	size:4;	signed:0;
	field:__u8 saddr_v6[16];	offset:40;	size:16;	signed:0;

print fmt: "skbaddr=%p field:no;	offset:1;", REC->skbaddr
"""


def test_fields() -> None:
    assert tracepoints.fields(FORMAT) == {"common_type": 0, "skbaddr": 8, "reason": 36, "saddr_v6": 40}


def test_looked_up(tmp_path: Path) -> None:
    place = tmp_path / "events/skb/kfree_skb"
    place.mkdir(parents=True)
    (place / "format").write_text(FORMAT)
    assert tracepoints.look_up("skb:kfree_skb", tmp_path)["reason"] == 36
    with pytest.raises(TproxyError, match="no tracepoint tcp:tcp_probe, or does not show it: No such file"):
        tracepoints.look_up("tcp:tcp_probe", tmp_path)


def test_bcc_is_found_where_distributions_put_it(tmp_path: Path) -> None:
    assert bcc.find(tmp_path) is None
    for place in ("usr/lib/python3.12/site-packages", "usr/lib/python3/dist-packages"):
        (tmp_path / place / "bcc").mkdir(parents=True)
        (tmp_path / place / "bcc/libbcc.py").touch()
    assert bcc.find(tmp_path) == tmp_path / "usr/lib/python3/dist-packages/bcc"


def test_without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc, "find", lambda: None)
    with pytest.raises(TproxyError) as caught:
        bcc.load()
    assert caught.value.message == "bcc is not installed on this node, which tracing needs"
    assert "everything else works without" in caught.value.hint


def test_a_bcc_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("raise OSError('libbcc.so.0: cannot open shared object file')")
    monkeypatch.setattr(bcc, "find", lambda: tmp_path)
    with pytest.raises(TproxyError, match="bcc cannot be used: libbcc"):
        bcc.load()


def test_the_kernel_s_counters() -> None:
    text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: A\nIpExt: 4\n"
    assert counters(text) == {"SyncookiesSent": 1, "ListenOverflows": 22, "ListenDrops": 333}
    assert counters("") == {}


def test_full_is_beyond_the_limit() -> None:
    assert not Queue("::", 80, 128, 128).full
    assert Queue("::", 80, 129, 128).full
