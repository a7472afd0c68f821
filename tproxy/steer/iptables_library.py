"""Loads python-iptables without its search for libraries.

It runs ldconfig, and gcc and ld where there are any, for each library, and ldconfig again for the directory of
extensions. That takes half a second, and none of them is in a container image. The dynamic linker knows them by name.
"""

import ctypes
import ctypes.util
import os
import sys
import warnings
from pathlib import Path

# The names that distributions have had since 2013, newest first.
_SONAMES = {
    "c": ("libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"),
    "xtables": ("libxtables.so.12", "libxtables.so.11", "libxtables.so.10"),
    "ip4tc": ("libip4tc.so.2", "libip4tc.so.0"),
    "ip6tc": ("libip6tc.so.2", "libip6tc.so.0"),
}


class LibraryError(Exception):
    """Something of iptables is missing on this machine."""


def load() -> None:
    """Import `iptables_rules`, and iptc with it. Raises LibraryError."""
    if not sys.platform.startswith("linux"):
        raise LibraryError("it is Linux only")
    missing = [name for name in _SONAMES if _find(name) is None]
    if missing:
        raise LibraryError("the libraries " + ", ".join(f"lib{name}" for name in missing) + " are missing")
    extensions = _extensions()
    if not (extensions / "libxt_TPROXY.so").exists():
        raise LibraryError(f"iptables' extensions are not in {extensions}")
    os.environ.setdefault("XTABLES_LIBDIR", str(extensions))
    ctypes.util.find_library = _find
    # It asks distutils for a path and knows what to do without. With setuptools installed that takes nine tenths of the
    # time that the import takes.
    halted = "distutils" not in sys.modules
    if halted:
        sys.modules["distutils"] = None  # type: ignore[assignment]
    try:
        # Where it has not been compiled yet, compiling it gives warnings, which are errors to some.
        with warnings.catch_warnings(action="ignore"):
            from tproxy.steer import iptables_rules  # noqa: F401
    except Exception as error:  # it raises whatever occurs to it
        raise LibraryError(f"python-iptables does not load: {error}") from error
    finally:
        if halted:
            del sys.modules["distutils"]


def _find(name: str) -> str | None:
    for soname in _SONAMES.get(name, ()):
        try:
            ctypes.CDLL(soname, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return soname
    return None


def _extensions() -> Path:
    """Where libxtables is, in `xtables`: so everywhere by default, but only the linker knows where that is."""
    if directory := os.environ.get("XTABLES_LIBDIR"):
        return Path(directory)
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if "/libxtables.so" in path:
            return Path(path).parent / "xtables"
    raise LibraryError("libxtables is nowhere")
