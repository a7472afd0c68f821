"""Times and sizes as a person reads them: short, without spaces, so that they fit into table cells."""

_AGE_UNITS = ((365 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def age(seconds: float) -> str:
    """A time span as kubectl shows it: `42s`, `5m10s`, `12m`, `3h7m`, `2d5h`, `40d`. Negative counts as none."""
    left = max(0, int(seconds))
    for index, (size, unit) in enumerate(_AGE_UNITS):
        if left >= size and unit != "s":
            whole, rest = divmod(left, size)
            finer_size, finer_unit = _AGE_UNITS[index + 1]
            finer = rest // finer_size
            return f"{whole}{unit}{finer}{finer_unit}" if whole < 10 and finer else f"{whole}{unit}"
    return f"{left}s"


def elapsed(seconds: float) -> str:
    """How long something took: `0.42 s`, `12.3 s`, `2m5s`."""
    if seconds >= 60:
        return age(seconds)
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def latency(seconds: float) -> str:
    """A round-trip time: `0.35ms`, `12ms`, `1.2s`."""
    if seconds >= 1:
        return f"{seconds:.1f}s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f}ms" if milliseconds >= 9.95 else f"{milliseconds:.2g}ms"


def size(count: int) -> str:
    """A number of bytes: `512B`, `1.5KiB`, `20MiB`."""
    if count < 1024:
        return f"{count}B"
    value, units = count / 1024, ["TiB", "GiB", "MiB", "KiB"]
    while value >= 1023.5 and len(units) > 1:
        value /= 1024
        units.pop()
    unit = units[-1]
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
