"""What a port is said to speak."""

import pytest

from tproxy.model.pod import Container, ContainerPort, Pod, Service, ServicePort
from tproxy.model.protocol import not_http


def pod(name: str = "") -> Pod:
    return Pod("shop", "web-1", "u", labels={"app": "web"}, containers=(Container("c", (ContainerPort(name, 8080),)),))


def service(name: str = "", app_protocol: str = "", target: int | str = 8080, app: str = "web") -> Service:
    return Service("shop", "web", {"app": app}, (ServicePort(name, 80, target, "TCP", app_protocol),))


@pytest.mark.parametrize(
    "name", ["", "web", "main", "http", "HTTP", "http-admin", "api-postgres", "grpc-web", "metrics"]
)
def test_names_that_may_be_http(name: str) -> None:
    assert not_http(pod(name), [], 8080) == ""
    assert not_http(pod(), [service(name)], 8080) == ""


@pytest.mark.parametrize(
    ("name", "speaks"),
    [("grpc", "grpc"), ("grpc-api", "grpc"), ("http2", "http2"), ("https", "https"), ("postgresql", "postgresql")],
)
def test_names_that_are_not(name: str, speaks: str) -> None:
    assert not_http(pod(name), [], 8080) == speaks
    assert not_http(pod(), [service(name)], 8080) == speaks


def test_the_more_explicit_counts() -> None:
    assert not_http(pod("http"), [service("http", "kubernetes.io/h2c")], 8080) == "kubernetes.io/h2c"
    assert not_http(pod("tcp"), [service("tcp", "http")], 8080) == ""
    assert not_http(pod("tcp"), [service("http")], 8080) == ""


def test_only_what_is_said_of_this_port_of_this_pod_counts() -> None:
    assert not_http(pod("web"), [service("redis", target="web")], 8080) == "redis"
    assert not_http(pod("web"), [service("redis", target="other")], 8080) == ""
    assert not_http(pod("web"), [service("redis", app="other")], 8080) == ""
    assert not_http(pod("redis"), [], 9090) == ""


def test_app_protocols_are_read() -> None:
    port = {"name": "x", "port": 80, "appProtocol": "grpc"}
    obj = {"kind": "Service", "metadata": {"namespace": "a", "name": "b"}, "spec": {"ports": [port]}}
    assert Service.from_object(obj).ports[0].app_protocol == "grpc"
