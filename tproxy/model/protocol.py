"""What a port of a pod speaks, as far as manifests say: `appProtocol` of a Service, else names as Istio reads them."""

from collections.abc import Iterable, Iterator

from tproxy.model.pod import Pod, Service

_HTTP1 = frozenset({"http", "http1", "ws", "grpc-web", "kubernetes.io/ws", "kubernetes.io/wss"})
_OTHERS = frozenset(
    {
        *("https", "tls", "tcp", "http2", "h2", "h2c", "kubernetes.io/h2c", "grpc", "grpcs", "thrift", "amqp", "mqtt"),
        *("mysql", "mongo", "redis", "postgres", "postgresql", "mssql", "cassandra", "kafka", "nats", "memcached"),
        *("ldap", "smtp", "imap", "pop3", "ssh", "ftp", "dns"),
    }
)


def not_http(pod: Pod, services: Iterable[Service], port: int) -> str:
    """What the pod's `port` speaks if that is declared and is not HTTP/1; else empty.

    Nothing declared, or a name that says nothing of a protocol (`web`), is taken for what may be HTTP.
    """
    for name in _declared(pod, services, port):
        name = name.lower()
        prefix = name.partition("-")[0]
        if name in _HTTP1 or (prefix in _HTTP1 and name not in _OTHERS):
            return ""
        if name in _OTHERS or prefix in _OTHERS:
            return name if name in _OTHERS else prefix
    return ""


def _declared(pod: Pod, services: Iterable[Service], port: int) -> Iterator[str]:
    """The more explicit first."""
    names = {one.name for container in pod.containers for one in container.ports if one.number == port and one.name}
    ports = [
        one
        for service in services
        if service.selects(pod)
        for one in service.ports
        if one.protocol == "TCP" and (one.target == port or one.target in names)
    ]
    yield from (one.app_protocol for one in ports if one.app_protocol)
    yield from (one.name for one in ports if one.name)
    yield from sorted(names)
