"""The rules by python-iptables, for kernels with legacy iptables.

For processes forked for this alone, one per family: python-iptables cannot load an extension for both.
"""

import socket

import iptc

from tproxy.capture.layout import QUEUE, RELAY_PORT, Action, Family, Rule, input_, prerouting

_KINDS = {socket.AF_INET: (iptc.Table, iptc.Rule), socket.AF_INET6: (iptc.Table6, iptc.Rule6)}


def install(family: Family, ask: bool) -> None:
    """Install one family's rules in the calling process' namespace; raises iptc.IPTCError and iptc.XTablesError."""
    _append(family, "mangle", "PREROUTING", list(prerouting(family, ask)))
    if ask:
        _append(family, "filter", "INPUT", list(input_(family)))


def _append(family: Family, name: str, chain_name: str, rules: list[Rule]) -> None:
    table_kind, rule_kind = _KINDS[family.number]
    table = table_kind(name, autocommit=False)
    # Left alone it would look at every table there is, which makes the kernel set them all up in this namespace.
    rule_kind.tables = [table]
    chain = iptc.Chain(table, chain_name)
    for each in rules:
        chain.append_rule(_rule(rule_kind(), family, each))
    table.commit()


def _rule(made: iptc.Rule, family: Family, rule: Rule) -> iptc.Rule:
    if rule.protocol:
        made.protocol = rule.protocol
    if rule.network or rule.beyond:
        made.dst = rule.network or f"!{rule.beyond}"
    if rule.mark is not None:
        made.create_match("mark").mark = f"{rule.mark:#x}"
    if rule.syn is not None:
        made.create_match("tcp").tcp_flags = [*["!"] * (not rule.syn), "FIN,SYN,RST,ACK", "SYN"]
    if rule.served:
        made.create_match("socket").set_parameter("nowildcard")  # else a socket bound to no address would not count
    made.target = _target(made, family, rule.action)
    return made


def _target(rule: iptc.Rule, family: Family, action: Action) -> iptc.Target:
    names = {Action.PASS: "RETURN", Action.DROP: "DROP", Action.ASK: "NFQUEUE", Action.CATCH: "TPROXY"}
    target = iptc.Target(rule, names.get(action, "REJECT"))
    match action:
        case Action.ASK:
            target.queue_num = str(QUEUE)
        case Action.CATCH:
            target.on_ip, target.on_port = family.relay, str(RELAY_PORT)
        case Action.REFUSE:
            target.reject_with = "tcp-reset"
        case Action.UNREACHABLE:
            target.reject_with = family.unreachable
        case Action.FORBID:
            target.reject_with = family.forbidden
    return target
