"""Where in the file system the cgroups of pods are: the ones that all containers of a pod share.

Only version 2 of cgroups, since nothing else takes BPF links. Processes' own accounts of where they are would be of no
help: what they say depends on who reads it.
"""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from tproxy.netns.cgroup import parse_cgroup

_MOUNTS = "/proc/self/mounts"
# kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice, and a few levels around it in nested nodes.
_DEEPEST = 7
_MOST_DIRECTORIES = 20000
# Units that contain no pods, of which there may be many.
_SKIPPED = (".service", ".mount", ".socket", ".swap")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def find_cgroups(names: Collection[str], roots: Collection[Path] | None = None) -> dict[str, Path]:
    """The directories of pods by what cgroups call them (UID, or a static pod's configuration hash).

    `roots` are the cgroup file systems to look through, by default all that are mounted here: the node's own may be
    mounted anywhere. Blocks for some milliseconds; never raises.
    """
    missing = set(names) - {""}
    found: dict[str, Path] = {}
    for root in mounted() if roots is None else roots:
        if not missing:
            break
        for name, path in _pods_below(root):
            if name in missing:
                found[name] = path
                missing.discard(name)
    return found


def mounted() -> list[Path]:
    """Every cgroup file system of version 2 that this process can see."""
    try:
        lines = Path(_MOUNTS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    fields = (line.split() for line in lines)
    return [
        Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), path)) for _, path, kind, *_ in fields if kind == "cgroup2"
    ]


def _pods_below(root: Path) -> Iterator[tuple[str, Path]]:
    left = _MOST_DIRECTORIES
    level = [str(root)]
    for _ in range(_DEEPEST):
        below: list[str] = []
        for parent in level:
            for entry in _directories(parent):
                left -= 1
                if left < 0:
                    return
                place = parse_cgroup(f"0::/{entry.name}")
                if place is not None and place.pod and not place.container:
                    yield place.pod, Path(entry.path)
                elif not entry.name.endswith(_SKIPPED):
                    below.append(entry.path)
        level = below


def _directories(parent: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(parent) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # it has just gone
