"""Regular expressions of people who share a node: RE2's, whose time is linear in what they look at.

No look-around and no back-references; repetition up to 1,000; a program larger than `MEMORY` is refused. The whole
value has to match, as in most gateways: `ada` is not found in `canada`, `.*ada.*` is.
"""

from collections.abc import Callable

MEMORY = 512 * 1024
"""Bytes that one compiled expression may take, its cache of states included."""

LIMIT = 1024
"""Characters of an expression."""

Test = Callable[[bytes], bool]


def as_bytes(text: str) -> bytes:
    """What is compared with bytes of a request. Never raises, also for text that is no Unicode."""
    return text.encode(errors="surrogatepass")


def compile_pattern(pattern: str) -> Test:
    """Whether a value, in UTF-8, matches `pattern` as a whole. Raises ValueError with RE2's reason."""
    import re2  # takes a tenth of a second, and few need it

    if len(pattern) > LIMIT:
        raise ValueError(f"longer than {LIMIT} characters")
    options = re2.Options()
    options.max_mem = MEMORY
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(as_bytes(pattern), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not understood"
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
    return lambda value: compiled.fullmatch(value) is not None
