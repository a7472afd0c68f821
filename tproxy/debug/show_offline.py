"""What the kernel holds while no daemon answers, for people."""

from collections.abc import Sequence

from tproxy.debug.answer import Json
from tproxy.text.table import render

COLUMNS = ("NETNS", "POD", "BACKEND", "NAME", "PROTOCOL", "PORTS", "STEERED", "LEASE", "ATTACHED")


def text(found: Sequence[Json], sentences: Sequence[str]) -> str:
    """A line for each attachment, and what they come to."""
    rows = []
    for one in (each["held"] for each in found if "held" in each):
        lease = one["leaseSeconds"]
        rows.append(
            [
                one["netns"],
                one["host"] or one["pod"] or None,
                one["backend"],
                one["name"],
                one["protocol"],
                ",".join(str(port["port"]) for port in one["ports"]) or None,
                sum(port["kernel"]["steered"] for port in one["ports"]),
                "never" if lease is None else f"{lease:.1f}s" if lease > 0 else f"over for {-lease:.0f}s",
                "yes" if one["attached"] else "no",
            ]
        )
    return "\n".join([*([render(COLUMNS, rows), ""] if rows else []), *sentences])
