"""The rules of one address family in the mangle table, by python-iptables.

For processes forked for a single change: python-iptables keeps a table for good and cannot load an extension for both
families. The table is read afresh, changed and committed as a whole, which the kernel does in one step.
"""

import contextlib

import iptc

from tproxy_cli.connect.layout import IN, MASK, OUT, Family, Rule, chains, jumps


class Mangle:
    """The mangle table of the calling process' namespace; raises iptc.IPTCError and iptc.XTablesError."""

    def __init__(self, family: Family) -> None:
        six = family.digit == "6"
        self._family = family
        self._table = (iptc.Table6 if six else iptc.Table)("mangle", autocommit=False)
        self._kind = iptc.Rule6 if six else iptc.Rule
        # Left alone it would look at every table there is, which makes the kernel set them all up.
        self._kind.tables = [self._table]

    def install(self, tcp: int, udp: int) -> None:
        """Catch, for sockets of ours with these ports; what an earlier one left is replaced."""
        self._drop()
        for name, rules in chains(self._family, tcp, udp):
            chain = self._table.create_chain(name)
            for rule in rules:
                chain.append_rule(self._rule(rule))
        for name, rule in jumps(self._family):
            iptc.Chain(self._table, name).insert_rule(self._rule(rule))
        self._table.commit()

    def remove(self) -> None:
        """Undo `install`; nothing if there is nothing of it."""
        if self._drop():
            self._table.commit()

    def _drop(self) -> bool:
        present = {chain.name for chain in self._table.chains} & {OUT, IN}
        for name, rule in jumps(self._family):
            # By what it must look like: to look through the rules would mean to understand other people's.
            if rule.target in present:
                with contextlib.suppress(iptc.IPTCError):
                    iptc.Chain(self._table, name).delete_rule(self._rule(rule))
        for name in present:
            self._table.flush_entries(name)
            self._table.delete_chain(name)
        return bool(present)

    def _rule(self, rule: Rule) -> iptc.Rule:
        made = self._kind()
        if rule.protocol:
            made.protocol = rule.protocol
        if rule.interface:
            made.in_interface = rule.interface
        if rule.port:
            made.create_match(rule.protocol).dport = str(rule.port)
        if rule.mark:
            made.create_match("mark").mark = f"{rule.mark:#x}/{MASK:#x}"
        if rule.local:
            made.create_match("addrtype").dst_type = "LOCAL"
        if rule.match_set:
            made.create_match("set").match_set = [rule.match_set, "dst"]
        target = made.target = iptc.Target(made, rule.target)
        if rule.set_mark:
            target.set_xmark = f"{rule.set_mark:#x}/{MASK:#x}"
        if rule.on_port:
            target.on_ip, target.on_port = self._family.loopback, str(rule.on_port)
        return made
