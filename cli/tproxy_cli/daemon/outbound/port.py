"""What `run` and `connect` need of a way into the cluster, as protocols; `way.py` is the adapter.

    outbound = await open_outbound(cluster, namespace, target)     a Session, a pod to leave from, a tunnel to its node
    conn = outbound.open_tcp(destination, source, sink)            returns at once; what the node says goes to the sink
    flow = outbound.open_udp(destination, source, sink)
    answer = await outbound.query(message)                         DNS, by the pod's resolvers
    await outbound.close()                                         the Session ends if nobody else uses it

A destination that is a name is resolved on the node, by the pod's resolvers; a numeric one is dialled as it is.
"""

from typing import Protocol

from tproxy.model.flow import Address, ResetReason
from tproxy.model.resolv_conf import ResolvConf
from tproxy.tunnel.conn import Conn, ConnSink


class DatagramSink(Protocol):
    """Who takes what comes back for a UDP flow. Called from the loop; must not block."""

    def datagram(self, payload: bytes) -> None:
        """One datagram of the destination."""

    def flow_ended(self, reason: ResetReason, detail: str) -> None:
        """The flow is over: REFUSED when the destination's host said that nobody is there (ICMP port unreachable),
        TIMED_OUT when it was idle for long, TUNNEL_LOST and others as for connections. The next datagram takes a new
        flow."""


class DatagramFlow(Protocol):
    """One UDP flow: datagrams between one source on the laptop and one destination."""

    def send(self, payload: bytes) -> bool:
        """Send one datagram, or drop it as UDP does: false when dropped."""

    def close(self) -> None:
        """End the flow; the sink hears nothing. Idempotent."""


class Outbound(Protocol):
    """A way into one cluster for as long as it is not closed.

    The tunnel is kept: when it is lost, or the pod it leaves from goes, a new one is made in the background, to another
    node if need be. While there is none, new connections end with TUNNEL_LOST at once, whose detail says why.
    """

    @property
    def origin(self) -> str:
        """The pod that connections leave from, `namespace/name`; empty while there is none."""

    @property
    def node(self) -> str:
        """The node it is on; empty while there is none."""

    @property
    def trouble(self) -> str:
        """Why there is no way at the moment, for people; empty when there is one."""

    @property
    def resolv_conf(self) -> ResolvConf:
        """What the pod's resolver is configured with: search list, ndots, and so on. Known once `open_outbound`
        returned; follows the pod."""

    def owns(self, address: str) -> bool:
        """Whether a numeric address is the cluster's: a Service's or a pod's as far as the user may see them, or one
        that the cluster's DNS has answered with lately. False for nodes and for the API server."""

    def open_tcp(self, destination: Address, source: Address | None, sink: ConnSink) -> Conn:
        """Dial. `sink.conn_opened` when the destination has accepted, `sink.conn_reset` with the reason when it has
        not: REFUSED, UNREACHABLE, TIMED_OUT, NO_SUCH_HOST, DENIED (the detail names the policy), LIMIT. Bytes may be
        written before. `tproxy.tunnel.bridge.Bridge` is a sink for a TCP socket."""

    def open_udp(self, destination: Address, source: Address | None, sink: DatagramSink) -> DatagramFlow:
        """Begin a UDP flow, which ends by itself when idle."""

    async def query(self, message: bytes) -> bytes:
        """Ask the pod's resolvers: one DNS message (RFC 1035 section 4.1) without framing, and the answer, whole
        however long it is, with the same ID; perhaps one that is some seconds old. Raises `TimeoutError` if none of
        them answers, `TproxyError` if there is no way."""

    async def close(self) -> None:
        """Close the flows, and the Session and tunnel if nobody else uses them. Idempotent."""
