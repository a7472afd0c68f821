"""Any exception as an error a person can act on."""

import errno
import os
import re
from collections.abc import Sequence

import click

from tproxy.errors import InvalidError, TproxyError

PAYLOAD_LIMIT = 256
"""Longest text of a cause in characters: an answer of a server may be a page, or hold what should not be shown."""


class UnexpectedError(TproxyError):
    """A defect of tproxy itself."""


def explain(error: BaseException) -> TproxyError:
    """What to say about `error`. A defect's traceback is kept in a file that the hint names."""
    if isinstance(error, TproxyError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return TproxyError("interrupted", exit_code=130)
    if isinstance(error, click.ClickException):
        return _explain_usage(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the result"
        return TproxyError(f"cannot write {where}: {error.strerror}", "make room, or see where stdout leads")
    unexpected = UnexpectedError(f"unexpected {type(error).__name__}: {_short(str(error))}", _keep_traceback(error))
    unexpected.__cause__ = error
    return unexpected


def causes(error: BaseException) -> list[str]:
    """The chain of what led to `error`, nearest first; the whole traceback where it is a defect."""
    if isinstance(error, UnexpectedError) and error.__cause__ is not None:
        import traceback

        return ["".join(traceback.format_exception(error.__cause__)).rstrip()]
    found: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(found) < 10:
        found.append(f"{type(cause).__name__}: {_short(str(cause))}")
        cause = cause.__cause__ or cause.__context__
    return found


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= PAYLOAD_LIMIT else line[: PAYLOAD_LIMIT - 1] + "…"


def _keep_traceback(error: BaseException) -> str:
    import traceback

    from tproxy_cli import paths

    try:
        log = paths.state_dir() / "cli.log"
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)) + "\n")
    except (OSError, TproxyError):
        return "run it again with `-v` to see where; this is a defect of tproxy"
    return f"this is a defect of tproxy; {log} says where, and so does `-v`"


def _explain_usage(error: click.ClickException) -> TproxyError:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "tproxy"
    usage = ctx.get_usage().removeprefix("Usage: ") if ctx else path
    hint = f"see `{path} --help`"
    message = error.format_message()
    if isinstance(error, click.NoSuchCommand):
        message = f"there is no command {error.command_name!r}"
        hint = _did_you_mean([f"{path} {name}" for name in error.possibilities or []]) or hint
    elif isinstance(error, click.NoSuchOption):
        message = f"{path} has no option {error.option_name}"
        hint = _did_you_mean(_similar(error.option_name, error.possibilities or [])) or hint
    elif isinstance(error, click.MissingParameter) and error.param is not None:
        message = f"{error.param.human_readable_name} is missing"
        hint = f"write `{usage}`; see `{path} --help`"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        # Of a number with bounds click says that it is not "a valid integer range".
        said = re.sub(r"is not a valid integer( range)?", "is not a whole number", error.message)
        message = f"{_origin(error.param, error.ctx)}: {said}"
    elif "unexpected extra argument" in message:
        hint = f"write `{usage}`; see `{path} --help`"
    if not message[:2].isupper():  # not the name of an argument
        message = message[:1].lower() + message[1:]
    return InvalidError(message.rstrip("."), hint, exit_code=error.exit_code)


def _origin(param: click.Parameter, ctx: click.Context | None) -> str:
    """Where a wrong value was written."""
    from click.core import ParameterSource

    from tproxy_cli import paths

    name = max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
    source = ctx.get_parameter_source(param.name) if ctx and param.name else None
    if source is ParameterSource.ENVIRONMENT and param.name:
        return f"environment variable TPROXY_{param.name.upper()}"
    if source is ParameterSource.DEFAULT_MAP:
        return f"{name.lstrip('-')} in {paths.config_path()}"
    return name


def _similar(option: str, others: Sequence[str]) -> list[str]:
    """Those of `others` that are like `option` without counting the dashes, which make all options alike."""
    import difflib

    names = {other.lstrip("-"): other for other in others}
    return [names[name] for name in difflib.get_close_matches(option.lstrip("-"), names)]


def _did_you_mean(names: Sequence[str]) -> str:
    return "did you mean " + " or ".join(f"`{name}`" for name in names) + "?" if names else ""
