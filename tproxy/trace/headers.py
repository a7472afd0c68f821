"""Kernel headers for bcc: the running kernel's, those that the kernel carries itself, or of any version installed.

The program asks nothing of them that differs between kernels (`bpf/trace/tcp.c`), so that headers of another version
serve as well. Debian splits a set over two directories: `linux-headers-VERSION-common` has the sources,
`linux-headers-VERSION-ARCHITECTURE` what was generated for one kernel.
"""

import contextlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tproxy.errors import TproxyError

_SOURCE = "include/linux/kconfig.h"
_GENERATED = "include/generated/autoconf.h"
_ARCHIVE = Path("sys/kernel/kheaders.tar.xz")
_INCLUDED = re.compile(r"^include\s+(/\S+)/Makefile\s*$", re.MULTILINE)  # in Debian's Makefile of the second part
_KEPT = re.compile(r"^(\./)?(include/|arch/[^/]+/include/)")

LACKING = TproxyError(
    "no kernel headers are installed on this node, of whatever version",
    "use the image's variant with tracing, or run `apt install linux-headers-amd64` (or your architecture's)",
)


@dataclass(frozen=True, slots=True)
class Headers:
    """A set: where the sources are, and what was generated."""

    source: Path
    generated: Path

    def flags(self) -> list[str]:
        """The compiler's, of what is not below `source`, for bcc has the rest itself."""
        if self.source == self.generated:
            return []
        arch = sorted(self.generated.glob("arch/*/include/generated"))
        paths = [*arch, *(one / "uapi" for one in arch), self.generated / "include"]
        return [f"-I{path}" for path in [*paths, self.generated / "include/generated/uapi"]]


def find(release: str, root: Path = Path("/")) -> Headers | None:
    """The best that are installed as files: of the kernel `release`, else the newest."""
    places = [root / "lib/modules" / release / "build", *root.glob("usr/src/linux-headers-*")]
    places += [*root.glob("lib/modules/*/build"), *root.glob("usr/src/kernels/*")]
    sets = [found for place in places if (found := _complete(place, root)) is not None]
    return max(sets, key=lambda one: (release in str(one.generated), _version(one.generated)), default=None)


def archive(root: Path = Path("/")) -> Path | None:
    """The headers that the kernel carries (CONFIG_IKHEADERS), packed."""
    path = root / _ARCHIVE
    return path if path.exists() else None


def unpack(packed: Path, to: Path) -> Headers:
    """Unpack `archive` into the directory `to`. Raises TproxyError."""
    try:
        with tarfile.open(packed, "r:xz") as tar:
            tar.extractall(to, members=_wanted(tar), filter="data")
    except (OSError, tarfile.TarError) as error:
        raise TproxyError(f"cannot unpack the kernel's own headers: {error}", LACKING.hint) from error
    return Headers(to, to)


def _wanted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (member for member in tar if _KEPT.match(member.name))


def _complete(place: Path, root: Path) -> Headers | None:
    if not (place / _GENERATED).exists():
        return None
    generated = place.resolve()
    for source in (generated, *_sources(generated, root), place.with_name("source")):
        if (source / _SOURCE).exists():
            return Headers(source.resolve(), generated)
    return None


def _sources(generated: Path, root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for path in _INCLUDED.findall((generated / "Makefile").read_text()):
            yield root / path.lstrip("/")
    yield generated.with_name(generated.name.rpartition("-")[0] + "-common")


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)[:6]))
