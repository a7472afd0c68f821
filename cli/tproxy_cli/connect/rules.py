"""The rules of one address family, by python-iptables.

For processes forked for a single change: python-iptables keeps a table for good and cannot load an extension for both
families. A table is read afresh, changed and committed as a whole, which the kernel does in one step.
"""

import contextlib

import iptc

from tproxy_cli.connect.layout import MASK, QUEUE, Chain, Family, Rule, chains


class Rules:
    """The tables of the calling process' namespace; raises iptc.IPTCError and iptc.XTablesError."""

    def __init__(self, family: Family) -> None:
        six = family.digit == "6"
        self._family = family
        self._tables = {
            name: (iptc.Table6 if six else iptc.Table)(name, autocommit=False) for name in ("mangle", "filter")
        }
        self._kind = iptc.Rule6 if six else iptc.Rule
        # Left alone it would look at every table there is, which makes the kernel set them all up.
        self._kind.tables = list(self._tables.values())

    def install(self, tcp: int, udp: int, ask: bool) -> None:
        """Catch, for sockets of ours with these ports; what an earlier one left is replaced."""
        self._drop()
        for chain in reversed(chains(self._family, tcp, udp, ask)):  # what sends packets on comes last
            table = self._tables[chain.table]
            made = table.create_chain(chain.name)
            for rule in chain.rules:
                made.append_rule(self._rule(rule))
            iptc.Chain(table, chain.hook).insert_rule(self._rule(chain.jump))
        for name in ("filter", "mangle"):
            self._tables[name].commit()

    def remove(self) -> None:
        """Undo `install`; nothing if there is nothing of it."""
        changed = self._drop()
        for name in ("mangle", "filter"):
            if name in changed:
                self._tables[name].commit()

    def _drop(self) -> set[str]:
        """The tables in which something of ours was."""
        found = [chain for chain in chains(self._family) if self._has(chain)]
        for chain in found:
            table = self._tables[chain.table]
            # By what it must look like: to look through the rules would mean to understand other people's.
            with contextlib.suppress(iptc.IPTCError):
                iptc.Chain(table, chain.hook).delete_rule(self._rule(chain.jump))
            table.flush_entries(chain.name)
            table.delete_chain(chain.name)
        return {chain.table for chain in found}

    def _has(self, chain: Chain) -> bool:
        return any(one.name == chain.name for one in self._tables[chain.table].chains)

    def _rule(self, rule: Rule) -> iptc.Rule:
        made = self._kind()
        if rule.protocol:
            made.protocol = rule.protocol
        if rule.interface:
            made.in_interface = rule.interface
        if rule.port:
            made.create_match(rule.protocol).dport = str(rule.port)
        if rule.syn is not None:
            made.create_match("tcp").tcp_flags = [*["!"] * (not rule.syn), "FIN,SYN,RST,ACK", "SYN"]
        if rule.mark:
            made.create_match("mark").mark = f"{rule.mark:#x}/{rule.mask:#x}"
        if rule.local:
            made.create_match("addrtype").dst_type = "LOCAL"
        if rule.match_set:
            made.create_match("set").match_set = [rule.match_set, "dst"]
        target = made.target = iptc.Target(made, rule.target)
        if rule.set_mark:
            target.set_xmark = f"{rule.set_mark:#x}/{MASK:#x}"
        if rule.on_port:
            target.on_ip, target.on_port = self._family.loopback, str(rule.on_port)
        if rule.reject_with:
            target.reject_with = rule.reject_with
        if rule.target == "NFQUEUE":
            target.queue_num = str(QUEUE)
            target.set_parameter("queue_bypass")
        return made
