"""The `--http-*` flags, by which a person says which requests are meant."""

import functools
from typing import Any

import click

from tproxy_cli.client import Json
from tproxy_cli.options import Function

_HEADER_HELP = (
    "Only requests with this header; NAME=~REGEX for a pattern, `auto` for a new header of your own."
    " Repeatable: all must hold."
)
_BAGGAGE_HELP = (
    "Only requests with this entry of the W3C baggage header, which services pass on; NAME=~REGEX for a pattern."
    " Repeatable: all must hold."
)


def http_options(function: Function) -> Function:
    """The flags; the function gets them as `http`, in the form that the daemon takes."""

    @functools.wraps(function)
    def call(
        *args: Any,
        http_header: tuple[str, ...],
        http_baggage: tuple[str, ...],
        http_path: str,
        http_path_prefix: str,
        http_path_regex: str,
        http_method: str,
        **params: Any,
    ) -> Any:
        http = {
            "headers": list(http_header),
            "baggage": list(http_baggage),
            "path": http_path,
            "pathPrefix": http_path_prefix,
            "pathRegex": http_path_regex,
            "method": http_method,
        }
        return function(*args, http=http, **params)

    decorated = _single("--http-method", "METHOD", "Only requests with this method.")(call)
    decorated = _single("--http-path-regex", "REGEX", "Only requests whose whole path matches.")(decorated)
    decorated = _single("--http-path-prefix", "PATH", "Only requests for this path and what is below it.")(decorated)
    decorated = _single("--http-path", "PATH", "Only requests for exactly this path.")(decorated)
    decorated = _repeatable("--http-baggage", _BAGGAGE_HELP)(decorated)
    made: Function = _repeatable("--http-header", _HEADER_HELP)(decorated)
    return made


def check_http(http: Json) -> bool:
    """Whether single requests are meant. Raises InvalidError where no request could be."""
    from tproxy.model.conditions import parse_conditions

    asked = parse_conditions(
        http["headers"], http["baggage"], http["path"], http["pathPrefix"], http["pathRegex"], http["method"]
    )
    return asked.fresh or asked.match is not None


def _single(flag: str, metavar: str, text: str) -> Any:
    return click.option(flag, metavar=metavar, default="", allow_from_autoenv=False, help=text)


def _repeatable(flag: str, text: str) -> Any:
    return click.option(flag, metavar="NAME=VALUE", multiple=True, allow_from_autoenv=False, help=text)
