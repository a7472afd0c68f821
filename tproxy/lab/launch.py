"""`lab up` and `lab down`: start the lab server; remove whatever a lab, even a crashed one, has left."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tproxy.errors import ConflictError, InvalidError, TproxyError
from tproxy.lab import cgroup, machine, records
from tproxy.lab.addresses import MAX_NODES
from tproxy.lab.layout import NETNS, RUN, Layout

_LOG_TAIL_BYTES = 2000


def up(layout: Layout, nodes: int, node_daemons: Sequence[str] | None, progress: Callable[[str], None]) -> None:
    """Start the lab and return when it is ready. On failure nothing of it is left. Raises TproxyError."""
    if not 1 <= nodes <= MAX_NODES:
        raise InvalidError(f"a lab has 1 to {MAX_NODES} nodes, not {nodes}", "`tproxy lab up --nodes 2`")
    machine.check()
    RUN.mkdir(mode=0o755, exist_ok=True)
    try:
        layout.state.mkdir(mode=0o700)
    except FileExistsError:
        raise _exists(layout) from None
    try:
        if layout.cgroup.exists() or layout.present_netns():
            # Its files are gone but processes or namespaces aren't: somebody cleaned /run by hand.
            remove(layout, keep_state=True)
        _start_server(layout, nodes, node_daemons, progress)
    except BaseException:
        remove(layout)
        raise


def down(layout: Layout) -> bool:
    """Remove everything of the lab. False if there was nothing. Raises TproxyError if something cannot be removed."""
    if not (layout.state.exists() or layout.cgroup.exists() or layout.present_netns()):
        return False
    remove(layout)
    return True


def _exists(layout: Layout) -> TproxyError:
    if records.server_alive(layout):
        return ConflictError(
            f"the lab {layout.name!r} is already up",
            f"`tproxy lab status{layout.option}` shows it, `tproxy lab down{layout.option}` ends it",
            exit_code=1,
        )
    return TproxyError(f"a lab {layout.name!r} has crashed and left things behind", f"`tproxy lab down{layout.option}`")


def _start_server(
    layout: Layout, nodes: int, node_daemons: Sequence[str] | None, progress: Callable[[str], None]
) -> None:
    group = layout.place_cgroup("server")
    group.mkdir(parents=True)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "tproxy.lab.server", "--name", layout.name, "--nodes", str(nodes)]
    command += ["--announce", str(writing)]
    command += ["--without-daemons"] if node_daemons is None else [f"--daemon-flag={flag}" for flag in node_daemons]
    with layout.server_log.open("ab") as log, os.fdopen(reading) as lines:
        try:
            server = subprocess.Popen(
                ["/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(group), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        for line in lines:
            said = json.loads(line)
            if "ready" in said:
                # It goes on without us; its exit status is nobody's concern.
                server.returncode = 0
                return
            if "error" in said:
                server.wait()
                raise TproxyError(said["error"], said["hint"])
            progress(said["progress"])
    code = server.wait()
    tail = layout.server_log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    raise TproxyError(f"the lab server ended with {code} before the lab was up:\n{tail}")


def remove(layout: Layout, keep_state: bool = False) -> None:
    """End the lab's processes, then remove its namespaces, cgroups and files. Every step is tried."""
    failures = []
    cgroup.leave(layout.cgroup)
    for step in (_end_processes, _delete_namespaces, *([] if keep_state else [_delete_files])):
        try:
            step(layout)
        except (TproxyError, OSError) as error:
            failures.append(str(error))
    if failures:
        raise TproxyError(f"the lab {layout.name!r} is not completely gone: {'; '.join(failures)}")


def _end_processes(layout: Layout) -> None:
    cgroup.end(layout.cgroup)
    # Whoever entered a namespace by other means (`ip netns exec`) would keep it alive.
    deadline = time.monotonic() + 2.0
    while strangers := list(_inside(layout)):
        for pid in strangers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if time.monotonic() > deadline:
            raise TproxyError(f"processes {strangers} stay in the lab's namespaces")
        time.sleep(0.005)


def _inside(layout: Layout) -> Iterator[int]:
    own = set()
    for name in layout.present_netns():
        with contextlib.suppress(OSError):
            status = (NETNS / name).stat()
            own.add((status.st_dev, status.st_ino))
    if not own:
        return
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                status = os.stat(f"/proc/{entry.name}/ns/net")
                state = Path("/proc", entry.name, "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in own and state != "Z":
                yield int(entry.name)


def _delete_namespaces(layout: Layout) -> None:
    names = layout.present_netns()
    if names:
        script = "".join(f"netns del {name}\n" for name in names)
        done = subprocess.run(
            ["ip", "-force", "-batch", "-"], input=script, text=True, capture_output=True, check=False
        )
        if left := layout.present_netns():
            raise TproxyError(f"namespaces {', '.join(left)} cannot be deleted: {done.stderr.strip()[:512]}")


def _delete_files(layout: Layout) -> None:
    if layout.state.exists():
        shutil.rmtree(layout.state)
    with contextlib.suppress(OSError):
        RUN.rmdir()
