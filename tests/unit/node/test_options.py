"""The command line."""

import pytest
from tproxy_node.dial.dialling import DialLimits
from tproxy_node.options import Direct, Listen, PodName, parse
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


def test_the_direct_way_is_said_where_pods_say_things() -> None:
    environ = {"NODE_NAME": "n", "POD_NAMESPACE": "tproxy-system", "POD_NAME": "tproxy-node-x"}
    assert parse([], environ).direct is None
    direct = parse(["--direct=[::]:4772", "--direct-host=[fd00::1]"], environ).direct
    assert direct == Direct(Listen("::", 4772), "fd00::1", 0, PodName("tproxy-system", "tproxy-node-x"))
    direct = parse(["--direct=[::]:4772", "--direct-host=n.example.com", "--direct-port=443"], environ).direct
    assert direct is not None
    assert (direct.host, direct.port) == ("n.example.com", 443)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--node", "n", "--direct", "[::]:4772"],
        ["--node", "n", "--direct", "[::]:4772", "--direct-host", "h"],
        ["--node", "n", "--direct-host", "not a host"],
        ["--node", "n", "--direct-port", "0"],
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
