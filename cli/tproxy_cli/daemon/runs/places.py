"""Where what leaves a run goes: into the cluster, or to the laptop's own network."""

import ipaddress
from collections.abc import Sequence

from tproxy_cli.daemon.outbound.port import Outbound

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Places:
    """Decides by the destination's address; ranges that the person named go before what the cluster says."""

    def __init__(self, outbound: Outbound, also: Sequence[Network] = (), never: Sequence[Network] = ()) -> None:
        self.outbound = outbound
        self._also = also
        self._never = never

    def in_cluster(self, host: str) -> bool:
        """Whether a numeric address is to be dialled from the pod."""
        address = ipaddress.ip_address(host)
        # A loopback address is the laptop's: what listens inside has been asked before.
        if address.is_loopback or any(address in network for network in self._never):
            return False
        return any(address in network for network in self._also) or self.outbound.owns(host)
