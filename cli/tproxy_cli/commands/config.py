"""`tproxy config view`: what the configuration comes to."""

import os

import click

from tproxy.text.table import render as render_table
from tproxy_cli import paths
from tproxy_cli.client import Json
from tproxy_cli.config import DEFAULTS, load
from tproxy_cli.options import command, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render


@command()
@output_option
def view(console: Console, output: str) -> None:
    """Print paths, and the settings that the environment or the configuration file makes."""
    result = collect()
    rows = [(name, one["value"], one["source"]) for name, one in result["settings"].items()]
    console.out(
        render(
            output,
            result,
            lambda wide: (
                "\n".join(f"{name:<8} {path}" for name, path in result["paths"].items())
                + "\n\n"
                + render_table(("NAME", "VALUE", "SOURCE"), rows)
            ),
            lambda: result["settings"],
        )
    )


def collect() -> Json:
    """Paths, and each setting with its value and source: environment, file or default."""
    file = load()
    settings: Json = {}
    for key, default in DEFAULTS.items():
        name = key.replace("-", "_")
        if value := os.environ.get(f"TPROXY_{name.upper()}"):
            settings[key] = {"value": value, "source": "environment"}
        elif name in file:
            settings[key] = {"value": file[name], "source": "file"}
        else:
            settings[key] = {"value": default, "source": "default"}
    return {
        "paths": {
            "config": str(paths.config_path()),
            "log": str(paths.log_path()),
            "socket": str(paths.socket_path()),
            "state": str(paths.state_dir()),
        },
        "settings": settings,
    }


@click.group(commands=[view])
def config() -> None:
    """Show the configuration and where it comes from."""
