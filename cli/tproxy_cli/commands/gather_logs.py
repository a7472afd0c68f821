"""`tproxy gather-logs`: one archive for whoever is asked for help."""

import time
from functools import partial
from pathlib import Path

import click

from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command(name="gather-logs")
@click.option(
    "--file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The archive to write; else tproxy-logs-DATE-TIME.tar.gz in this directory.",
)
@cluster_options
@output_option
def gather_logs(console: Console, file: str | None, cluster: Json, output: str) -> None:
    """Write logs and findings into one archive, without secrets.

    What the laptop, the cluster and the nodes say of tproxy, as far as you may read it; the archive's index.json names
    what could not be had. Tokens, passwords, keys and the values that requests are matched by are removed. Look into it
    before you send it: `tar -tzf FILE`.
    """
    import asyncio

    from tproxy_cli.commands.node.asking import ask
    from tproxy_cli.gather import cluster as in_cluster
    from tproxy_cli.gather import laptop
    from tproxy_cli.gather.archive import Archive
    from tproxy_cli.gather.secrets import Cleaner

    path = Path(file or time.strftime("tproxy-logs-%Y%m%d-%H%M%S.tar.gz")).absolute()
    with Archive(path, Cleaner(laptop.known_secrets(cluster))) as archive:
        # The cluster first: what its Intercepts match by is known then, and removed from the laptop's logs as well.
        nodes = asyncio.run(in_cluster.gather(archive, cluster, (), console.progress))
        laptop.gather(archive, cluster, console.progress)
        for node in nodes:
            console.progress(f"asking node {node}")
            archive.attempt(f"nodes/{node}/status.json", partial(ask, console, cluster, node, "status"))
    size = path.stat().st_size
    result = {"file": str(path), "bytes": size, "entries": archive.entries, "missing": archive.missing}
    console.out(
        render(
            output,
            result,
            lambda wide: f"{path}\n  {archive.entries} entries, {max(1, size // 1024)} KiB; secrets are removed",
            lambda: (str(path),),
        )
    )
    if archive.missing and output in ("table", "wide"):
        for one in archive.missing[:5]:
            console.hint(f"not in it: {one['name']}: {one['why']}")
        if len(archive.missing) > 5:
            console.hint(f"and {len(archive.missing) - 5} more; index.json names them all")
