"""A pod's volumes as a kubelet makes them, and the script that mounts them for one container.

A volume that is filled from ConfigMaps, Secrets and the like is a directory in which every file is a link through
`..data` to the directory of the current content. New content is written beside the old one; then `..data` is replaced.

    app.yaml ──► ..data/app.yaml      ..data ──► ..2026_11_25_10_00_00.000000123/
"""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tproxy.env.spec import Lookup, Object
from tproxy.env.volumes import Entry, content, is_filled, mounts
from tproxy.errors import InvalidError
from tproxy.lab.enter import tool

_DATA = "..data"

# For each mount: what is missing of its path is laid over the nearest directory that exists, in memory and for this
# container alone; the machine's own file system is never written to. What was mounted below that directory goes with
# it, so the pod's view of /etc and the lab's own files are put back.
_MOUNT = """
etc="$1" layers=/; shift
exec 9< "$etc/../.."  # the lab's own files, in case that the directory they are in is laid over
is_layered() {  # whether a directory is in memory already
    place="$1"
    while [ "$place" != / ]; do
        case "$layers" in *":$place:"*) return 0;; esac
        place=$(dirname "$place")
    done
    return 1
}
while [ "$1" != -- ]; do
    source="$1" target=$(realpath -m "$2") options="$3"; shift 3
    if [ ! -e "$target" ]; then
        below="$target"
        while [ ! -d "$below" ]; do below=$(dirname "$below"); done
        if [ "$below" = / ]; then
            echo "the lab mounts volumes only below directories that this machine has, not at $target" >&2
            exit 1
        fi
        if ! is_layered "$below"; then
            layer=$(mktemp -d "$etc/layer-XXXXXX")
            mount -t tmpfs tproxy-layer "$layer"
            mkdir "$layer/upper" "$layer/work"
            mount -t overlay -o "lowerdir=$below,upperdir=$layer/upper,workdir=$layer/work" tproxy-layer "$below"
            layers="$layers:$below:"
            if [ ! -d "$etc" ]; then
                mkdir -p "$etc/../.."
                mount --no-canonicalize --rbind /proc/self/fd/9 "$(realpath -m "$etc/../..")"
            fi
            if [ "$below" = /etc ]; then
                for file in resolv.conf hosts nsswitch.conf; do
                    if [ -e "/etc/$file" ]; then mount --bind "$etc/$file" "/etc/$file"; fi
                done
            fi
        fi
        if [ -d "$source" ]; then mkdir -p "$target"; else mkdir -p "$(dirname "$target")"; : > "$target"; fi
    fi
    mount --bind "$source" "$target"
    mount -o "remount,bind,$options" "$target"
done
shift
exec "$@"
"""


class PodVolumes:
    """The volumes of one pod, below `directory`. `etc` has the pod's private part of /etc."""

    def __init__(self, directory: Path, etc: Path, pod: Object, lookup: Lookup) -> None:
        self._directory = directory
        self._etc = etc
        self._pod = pod
        self._lookup = lookup
        self._written: dict[str, Mapping[str, Entry]] = {}

    def make(self) -> None:
        """Make every volume. Raises InvalidError for one that the lab does not know, or whose source is missing."""
        for volume in self._pod["spec"].get("volumes") or ():
            if "emptyDir" in volume:
                (self._directory / volume["name"]).mkdir(parents=True, exist_ok=True)
            elif is_filled(volume):
                self._fill(volume)
            elif "hostPath" not in volume:
                kinds = ", ".join(kind for kind in volume if kind != "name")
                raise InvalidError(f"volume {volume['name']}: the lab has no volumes of kind {kinds}")

    def refresh(self) -> None:
        """Write what has changed. A source that is gone leaves its volume as it is, as a kubelet does."""
        for volume in self._pod["spec"].get("volumes") or ():
            if is_filled(volume):
                with contextlib.suppress(InvalidError):
                    self._fill(volume)

    def command(self, container: Object, variables: Mapping[str, str], command: Sequence[str]) -> list[str]:
        """`command` with the container's volumes mounted, in a mount namespace of its own; it forks nothing that stays.

        Raises InvalidError.
        """
        wanted: list[str] = []
        for mount in mounts(self._pod["spec"], container, variables):
            volume = mount.volume
            source = Path(volume["hostPath"]["path"]) if "hostPath" in volume else self._directory / volume["name"]
            if mount.inside:
                inside = (source / mount.inside).resolve()
                if not inside.is_relative_to(source.resolve()) or not inside.exists():
                    raise InvalidError(f"volume {volume['name']} has nothing at {mount.inside}")
                source = inside
            read_only = mount.read_only or is_filled(volume)
            wanted += [str(source), mount.path, "ro" if read_only else "rw"]
        if not wanted:
            return list(command)
        unshare = [tool("unshare"), "--mount", "--propagation=slave"]
        return [*unshare, "/bin/sh", "-euc", _MOUNT, "volumes", str(self._etc), *wanted, "--", *command]

    def remove(self) -> None:
        """Delete them. Idempotent."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _fill(self, volume: Object) -> None:
        name: str = volume["name"]
        entries = content(volume, self._pod, self._lookup, self._token)
        if self._written.get(name) == entries:
            return
        _write(self._directory / name, entries)
        self._written[name] = entries

    def _token(self, wanted: Any) -> bytes:
        account = self._pod["spec"].get("serviceAccountName", "default")
        return f"token-of-{account}-for-{wanted.get('audience', 'the API server')}".encode()


def _write(directory: Path, entries: Mapping[str, Entry]) -> None:
    """Make a volume's directory show exactly `entries`."""
    directory.mkdir(parents=True, exist_ok=True)
    now = time.time_ns()
    stamp = f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime(now // 10**9))}.{now % 10**9:09d}"
    for path, entry in entries.items():
        file = directory / stamp / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(entry.data)
        file.chmod(entry.mode)
    (directory / stamp).mkdir(exist_ok=True)
    old = directory / os.readlink(directory / _DATA) if (directory / _DATA).is_symlink() else None
    os.symlink(stamp, directory / "..data_tmp")
    os.rename(directory / "..data_tmp", directory / _DATA)
    tops = {path.partition("/")[0] for path in entries}
    for present in directory.iterdir():
        if not present.name.startswith("..") and present.name not in tops:
            present.unlink()
    for top in tops:
        with contextlib.suppress(FileExistsError):
            os.symlink(f"{_DATA}/{top}", directory / top)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
