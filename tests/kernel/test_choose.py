"""Which backend is chosen, and what is said where there is none."""

import contextlib
import logging
from pathlib import Path

import pytest

from tproxy.errors import TproxyError
from tproxy.steer import iptables_client, sk_lookup
from tproxy.steer.choose import open_steering


@pytest.fixture
def no_sk_lookup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sk_lookup, "OBJECT", tmp_path / "missing")


@pytest.mark.parametrize(("choice", "name"), [("auto", "sk_lookup"), ("sk_lookup", "sk_lookup"), ("tproxy", "tproxy")])
def test_as_asked(choice: str, name: str) -> None:
    with contextlib.closing(open_steering(choice)) as steering:
        assert steering.name == name


@pytest.mark.usefixtures("no_sk_lookup")
def test_rules_where_the_kernel_has_no_sk_lookup(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(open_steering()) as steering:
        assert steering.name == "tproxy"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "iptables rules instead" in caplog.text
    with pytest.raises(TproxyError, match="has not been compiled"):
        open_steering("sk_lookup")


@pytest.mark.usefixtures("no_sk_lookup")
def test_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error tells what is missing for the one and for the other."""
    monkeypatch.setenv("XTABLES_LIBDIR", "/nowhere")
    with pytest.raises(TproxyError) as caught:
        open_steering()
    assert "has not been compiled" in caught.value.message
    assert "extensions are not in /nowhere" in caught.value.message
    assert "make bpf" in caught.value.hint
    assert iptables_client.HINT in caught.value.hint
