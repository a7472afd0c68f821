"""The same rules as one nft table, for kernels that have no legacy iptables. Pure: `render` makes the text."""

from tproxy.capture.layout import FAMILIES, QUEUE, RELAY_PORT, Action, Family, Rule, input_, prerouting

TABLE = "tproxy_run"
_KEYWORDS = {4: "ip", 6: "ip6"}


def render(ask: bool = True) -> str:
    """A table of both families for `nft -f`."""
    before = [line for family in FAMILIES for line in _chain(family, list(prerouting(family, ask)))]
    after = [line for family in FAMILIES for line in _chain(family, list(input_(family)) if ask else [])]
    return "\n".join(
        [
            f"table inet {TABLE} {{",
            "  chain prerouting {",
            "    type filter hook prerouting priority mangle; policy accept;",
            *before,
            "  }",
            "  chain input {",
            "    type filter hook input priority filter; policy accept;",
            *after,
            "  }",
            "}",
            "",
        ]
    )


def _chain(family: Family, rules: list[Rule]) -> list[str]:
    return [f"    meta nfproto {'ipv6' if ':' in family.host else 'ipv4'} {_rule(family, rule)}" for rule in rules]


def _rule(family: Family, rule: Rule) -> str:
    keyword = _KEYWORDS[6 if ":" in family.host else 4]
    words = []
    if rule.protocol:
        words.append(f"meta l4proto {rule.protocol}")
    if rule.network:
        words.append(f"{keyword} daddr {rule.network}")
    if rule.beyond:
        words.append(f"{keyword} daddr != {rule.beyond}")
    if rule.mark is not None:
        words.append(f"meta mark {rule.mark:#x}")
    if rule.syn is not None:
        words.append(f"tcp flags & (fin | syn | rst | ack) {'==' if rule.syn else '!='} syn")
    if rule.served:
        words.append("socket wildcard 0-1")  # true of every socket, false without one
    return " ".join([*words, _statement(family, keyword, rule.action)])


def _statement(family: Family, keyword: str, action: Action) -> str:
    to = f"[{family.relay}]" if keyword == "ip6" else family.relay
    icmp = "icmpv6" if keyword == "ip6" else "icmp"
    return {
        Action.PASS: "return",
        Action.DROP: "drop",
        Action.ASK: f"queue num {QUEUE}",
        Action.CATCH: f"tproxy {keyword} to {to}:{RELAY_PORT} accept",
        Action.REFUSE: "reject with tcp reset",
        Action.UNREACHABLE: f"reject with {icmp} {'addr-unreachable' if keyword == 'ip6' else 'host-unreachable'}",
        Action.FORBID: f"reject with {icmp} admin-prohibited",
    }[action]


if __name__ == "__main__":
    print(render(), end="")
