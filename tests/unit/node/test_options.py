"""The command line."""

import pytest
from tproxy_node.dial.dialling import DialLimits
from tproxy_node.options import Listen, parse
from tproxy_node.relay import Limits


def test_defaults() -> None:
    options = parse([], {"NODE_NAME": "n1"})
    assert options.node == "n1"
    assert options.grpc == Listen("127.0.0.1", 4770)
    assert options.http == Listen("::", 4771)


def test_flags_go_before_the_environment() -> None:
    options = parse(["--node", "n2", "--grpc", "[::1]:5000", "--http", "0.0.0.0:80"], {"NODE_NAME": "n1"})
    assert (options.node, options.grpc, options.http) == ("n2", Listen("::1", 5000), Listen("0.0.0.0", 80))


def test_limits() -> None:
    assert parse([], {"NODE_NAME": "n"}).limits == Limits()
    assert parse([], {"NODE_NAME": "n"}).dial_limits == DialLimits()
    flags = ["--session-connections=1", "--node-connections=2", "--session-dials=3", "--node-dials=4"]
    options = parse(flags, {"NODE_NAME": "n"})
    assert options.limits == Limits(per_session=1, total=2)
    assert (options.dial_limits.per_session, options.dial_limits.total) == (3, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--node", "n", "--grpc", "4770"],
        ["--node", "n", "--http", "[::]:70000"],
        ["--node", "n", "--session-dials", "0"],
        ["--node", "n", "--node-connections", "many"],
    ],
)
def test_nonsense_is_a_usage_error(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(wrong, {})
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
