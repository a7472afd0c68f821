"""Our rules in the mangle table of one address family, by python-iptables.

For processes forked for a single change only: python-iptables keeps a table for good, whichever namespace it came from,
and cannot load an extension for both families. The table is read afresh, changed and committed as a whole, which the
kernel does in one step.
"""

import contextlib
import socket
from collections.abc import Sequence

import iptc

from tproxy.steer.iptables_layout import LOOPBACK_LINK, OWN_MARK, OWN_MASK, Names, owner, replaced
from tproxy.steer.translated import by_nftables, has_nat_table

_Match = tuple[str, str, str | list[str]]

_SYN: _Match = ("tcp", "tcp_flags", ["FIN,SYN,RST,ACK", "SYN"])
_PLACES = {socket.AF_INET: (iptc.Table, iptc.Rule, "127.0.0.1"), socket.AF_INET6: (iptc.Table6, iptc.Rule6, "::1")}


class Mangle:
    """The mangle table of the calling process' namespace; raises iptc.IPTCError and iptc.XTablesError."""

    def __init__(self, family: socket.AddressFamily) -> None:
        kind, self._rule_kind, self._loopback = _PLACES[family]
        self._family = family
        self._table = kind(kind.MANGLE, autocommit=False)
        self._prerouting = iptc.Chain(self._table, "PREROUTING")

    def install(self, names: Names, port: int) -> None:
        """Steer to our listener's port; whatever else of ours is in the way goes."""
        for chain in self._ours():
            if replaced(chain, names):
                self._drop(chain)
        chain = self._table.create_chain(names.chain)
        steer = self._rule(names, [_in(names.lease), _in(names.steered)], "TPROXY")
        steer.target.on_ip, steer.target.on_port = self._loopback, str(port)
        late = self._rule(names, [_in(names.late)], "RETURN")
        for rule in (*self._exceptions(names), steer, late):
            chain.append_rule(rule)
        if not names.udp and self._is_translated():
            # Behind the mesh's own rules of this table, which mark connections so that they find their way back.
            self._prerouting.append_rule(self._jump(names, LOOPBACK_LINK))
        else:
            self._prerouting.insert_rule(self._jump(names))
        self._table.commit()

    def remove(self, names: Names) -> None:
        """Undo `install`; nothing if it was undone already."""
        for chain in self._ours():
            if chain == names:
                self._drop(chain)
                self._table.commit()

    def _is_translated(self) -> bool:
        if self._family in by_nftables():
            return True
        if not has_nat_table(self._family):
            return False  # to open it would make it
        kind = type(self._table)
        return kind(kind.NAT, autocommit=False).first_rule("PREROUTING") is not None

    def _exceptions(self, names: Names) -> list[iptc.Rule]:
        if names.udp:
            return []
        own: list[_Match] = [("mark", "mark", f"{OWN_MARK:#x}/{OWN_MASK:#x}"), _in(names.own)]
        passed: _Match = ("set", "match_set", [names.passed(self._family), "src,dst"])
        return [self._rule(names, own, "RETURN"), self._rule(names, [passed], "RETURN")]

    def _ours(self) -> list[Names]:
        return [names for chain in self._table.chains if (names := owner(chain.name)) is not None]

    def _drop(self, names: Names) -> None:
        # By what it must look like: to look through the rules would mean to understand other people's.
        for link in ("", LOOPBACK_LINK):
            with contextlib.suppress(iptc.IPTCError):
                self._prerouting.delete_rule(self._jump(names, link))
        self._table.flush_entries(names.chain)
        self._table.delete_chain(names.chain)

    def _jump(self, names: Names, link: str = "") -> iptc.Rule:
        rule = self._rule(names, [] if names.udp else [_SYN], names.chain)
        if link:
            rule.in_interface = link
        return rule

    def _rule(self, names: Names, matches: Sequence[_Match], target: str) -> iptc.Rule:
        rule = self._rule_kind()
        # Left alone it would look at every table there is, which makes the kernel set them all up in this namespace.
        type(rule).tables = [self._table]
        rule.protocol = "udp" if names.udp else "tcp"
        for match, option, value in matches:
            setattr(rule.create_match(match), option, value)
        rule.target = iptc.Target(rule, target)
        return rule


def _in(name: str) -> _Match:
    return "set", "match_set", [name, "dst"]
