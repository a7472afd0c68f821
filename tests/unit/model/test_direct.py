"""Where a node daemon is reached directly, as its pod says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.errors import InvalidError
from tproxy.model.direct import ADDRESS, CERTIFICATE, MAX_CERTIFICATE_BYTES, DirectWay, parse_host

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True)
HOSTS = NAMES.filter(lambda name: parse_host(name) == name) | st.ip_addresses().map(str)


@given(HOSTS, st.integers(1, 65535), st.binary(min_size=1, max_size=MAX_CERTIFICATE_BYTES))
def test_what_is_written_is_read(host: str, port: int, certificate: bytes) -> None:
    way = DirectWay(host, port, certificate)
    assert DirectWay.from_annotations(way.annotations() | {"other": "x"}) == way


@given(st.text(), st.text())
def test_nonsense_is_a_sentence(address: str, certificate: str) -> None:
    if address or certificate:
        with pytest.raises(InvalidError) as caught:
            DirectWay.from_annotations({ADDRESS: address, CERTIFICATE: certificate})
        assert len(caught.value.message) < 200


def test_nothing_said() -> None:
    assert DirectWay.from_annotations({"other": "x"}) is None


@pytest.mark.parametrize(
    ("address", "certificate"),
    [
        ("", "AAAA"),
        ("10.0.0.1:4772", ""),
        ("10.0.0.1", "AAAA"),
        ("10.0.0.1:0", "AAAA"),
        ("10.0.0.1:65536", "AAAA"),
        ("10.0.0.1:\u0661", "AAAA"),
        (":4772", "AAAA"),
        ("-x:4772", "AAAA"),
        ("unix:/run/x.sock:1", "AAAA"),
        ("[host]:4772", "AAAA"),
        ("10.0.0.1:4772", "no base64!"),
        ("10.0.0.1:4772", "A" * (3 * MAX_CERTIFICATE_BYTES)),
        ("h" * 300 + ":4772", "AAAA"),
    ],
)
def test_what_makes_no_sense(address: str, certificate: str) -> None:
    with pytest.raises(InvalidError):
        DirectWay.from_annotations({ADDRESS: address, CERTIFICATE: certificate})


def test_ipv6_in_brackets() -> None:
    assert str(DirectWay("fd00::1", 4772, b"x")) == "[fd00::1]:4772"
    assert parse_host("[FD00::1]") == "fd00::1"
