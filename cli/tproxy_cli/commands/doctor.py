"""`tproxy doctor`: check the laptop, the cluster and tproxy in it."""

from collections.abc import Sequence

import click

from tproxy.model.direct import Transport
from tproxy.text.printable import printable
from tproxy_cli.client import Json
from tproxy_cli.doctor.finding import Finding
from tproxy_cli.options import cluster_options, command, output_option, transport_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

_ROLES = {"pass": "good", "warn": "doubtful", "fail": "bad", "skip": "doubtful"}


@command()
@cluster_options
@transport_option
@output_option
def doctor(console: Console, cluster: Json, output: str) -> None:
    """Check the laptop, the cluster and tproxy in it.

    Changes nothing. The exit status is 1 if a check fails; warnings do not count.
    """
    import asyncio

    from tproxy_cli.doctor import laptop
    from tproxy_cli.doctor.cluster import check as check_cluster

    console.progress("checking the laptop")
    findings = laptop.check()
    console.progress("checking the cluster")
    place = cluster["kubeconfig"], cluster["context"], cluster["namespace"]

    def transport(context: str) -> Transport:
        chosen: Transport | None = cluster.get("transport")
        return chosen or laptop.transport(context)

    findings += asyncio.run(check_cluster(*place, transport))
    failures = [finding for finding in findings if finding.outcome == "fail"]
    warnings = sum(finding.outcome == "warn" for finding in findings)
    result = {
        "checks": [finding.data() for finding in findings],
        "failed": len(failures),
        "warned": warnings,
    }
    text = render(
        output,
        result,
        lambda wide: describe(console, findings),
        lambda: dict.fromkeys(f"{finding.category}/{finding.name}" for finding in failures),
    )
    if text:
        console.out(text)
    if failures:
        raise click.exceptions.Exit(1)


def describe(console: Console, findings: Sequence[Finding]) -> str:
    """Findings below their categories, then a sentence on the whole."""
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    category = ""
    for finding in findings:
        if finding.category != category:
            category = finding.category
            lines += ["", category]
        mark = console.paint(finding.outcome, _ROLES[finding.outcome])
        lines.append(f"  {mark}  {finding.name.ljust(width)}  {printable(finding.text)}")
        if finding.hint:
            lines.append(f"        {printable(finding.hint)}")
    failures = sum(finding.outcome == "fail" for finding in findings)
    warnings = sum(finding.outcome == "warn" for finding in findings)
    counted = [f"{failures} failed"] * bool(failures) + [f"{warnings} warned"] * bool(warnings)
    skipped = sum(finding.outcome == "skip" for finding in findings)
    counted += [f"{skipped} skipped"] * bool(skipped)
    summary = f"{len(findings)} checks: " + (", ".join(counted) if counted else "all passed")
    return "\n".join([*lines[1:], "", summary])
