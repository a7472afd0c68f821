"""How a node answers a question: one line that says what follows, then that. Sans-IO.

    {"answer": "lines"}    then JSON objects, one per line; the last one may be an error
    {"answer": "bytes"}    then bytes, to the end
    {"error": {...}}       there is no answer, for this reason

Whoever reads it does not trust it: lines are bounded before they are parsed.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tproxy.errors import ClusterError, TproxyError

MAX_ARGUMENTS = 64 * 1024
"""Bytes of a question's arguments."""

MAX_LINE = 1024 * 1024
"""Bytes of a line of an answer; nodes split longer lists into several lines."""

Json = Mapping[str, Any]
Form = Literal["lines", "bytes"]


def line(value: Json) -> bytes:
    """`value` as a line."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def begin(form: Form) -> bytes:
    """The first line of an answer."""
    return line({"answer": form})


def failure(error: TproxyError) -> bytes:
    """The last line of an answer that ends with `error`."""
    return line({"error": {"message": error.message, "hint": error.hint, "exitCode": error.exit_code}})


def error_of(value: Json) -> TproxyError | None:
    """The error that a line is, if it is one."""
    told = value.get("error")
    if not isinstance(told, Mapping) or value.keys() != {"error"}:
        return None
    code = told.get("exitCode")
    code = code if isinstance(code, int) and 0 < code < 256 else 1
    return TproxyError(str(told.get("message", "it failed"))[:1024], str(told.get("hint", ""))[:1024], code)


class AnswerReader:
    """Reads one answer as its bytes come. `form` is empty until the first line is there."""

    def __init__(self) -> None:
        self.form: Form | Literal[""] = ""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Json | bytes]:
        """What is complete now: objects of `lines`, pieces of `bytes`. Raises what the node said, or `ClusterError`."""
        if self.form == "bytes":
            yield data
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        while lines:
            value = _object(lines.pop(0))
            error = error_of(value)
            if error is not None:
                raise error
            if self.form:
                yield value
                continue
            form = value.get("answer")
            if form == "bytes":
                self.form = "bytes"
                rest, self._rest = b"\n".join([*lines, self._rest]), b""
                if rest:
                    yield rest
                return
            if form != "lines":
                raise _garbled("something else than an answer")
            self.form = "lines"
        if len(self._rest) > MAX_LINE:
            raise _garbled("a line that is too long")

    def end(self) -> None:
        """There is no more. Raises `ClusterError` if that is not all."""
        if not self.form or self._rest:
            raise _garbled("half an answer")


def _object(data: bytes) -> Json:
    if len(data) > MAX_LINE:
        raise _garbled("a line that is too long")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _garbled("something else than JSON")
    return value


def _garbled(what: str) -> ClusterError:
    return ClusterError(f"the node daemon sent {what}", "`tproxy version` compares versions")
