"""What is read of a container that may be hostile: its own volumes, and never anything else."""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tproxy_node import containers as module
from tproxy_node.containers import Containers, NoProcessError, TooLargeError

from tests.kernel.namespaces import PREFIX
from tproxy.env import environ
from tproxy.env.volumes import Entry
from tproxy.lab import cgroup
from tproxy.lab.volumes import _write
from tproxy.model.pod import Container

ROOT = Path(__file__).parents[2]
ID = "c" * 64
SECRET = "what-only-the-node-may-see"

# In a mount namespace of its own: what the test says, then the container's root and user, and stay. A process that
# changes its user may not be looked into until it is another program, which this one cannot become in its empty root.
_RUN = """
echo $$ > "$1/cgroup.procs"
cd "$2"; eval "$3"
exec "$4" -c 'import ctypes, os, signal, sys
prctl = ctypes.CDLL(None).prctl
os.chroot("."); os.chdir("/"); os.setuid(int(sys.argv[1])); prctl(4, 1, 0, 0, 0)
print("started", flush=True); signal.pause()' "$5"
"""


class Runtime:
    """A container: a directory as its root, a process in a cgroup, volumes where the kubelet has them."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.volumes = directory / "volumes"
        self.node = directory / "node"  # what must not be read
        for made in (self.root, self.volumes, self.node):
            made.mkdir()
        (self.node / "config").write_text(SECRET)
        self.volume({"app.yaml": b"colour: green", "a/b": b"deep"})
        self._group = cgroup.mount_point() / f"{PREFIX}{uuid.uuid4().hex[:8]}" / f"pod{uuid.uuid4()}" / ID
        self._process: subprocess.Popen[bytes] | None = None
        self._helper: subprocess.Popen[bytes] | None = None

    def volume(self, entries: dict[str, bytes], name: str = "config") -> Path:
        """Make or change a volume."""
        _write(self.volumes / name, {path: Entry(data) for path, data in entries.items()})
        return self.volumes / name

    def mount(self, name: str = "config", at: str = "etc/config", inside: str = "") -> str:
        """A line of the set-up script that mounts a volume or a part of it."""
        place = self.root / at
        source = self.volumes / name / inside
        if source.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        return f"mount --bind {source.resolve()} {place}\n"

    def start(self, script: str = "", user: int = 0, **environment: str) -> None:
        """Run it."""
        self._group.mkdir(parents=True, exist_ok=True)
        line = ["unshare", "--mount", "--propagation=private", "sh", "-euc", _RUN, "sh"]
        self._process = subprocess.Popen(
            [*line, str(self._group), str(self.root), script, sys.executable, str(user)],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], **environment},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n"

    def start_helper(self) -> None:
        """What CRI-O does: a process of the runtime in the container's cgroup, older than any of the container."""
        self._group.mkdir(parents=True, exist_ok=True)
        script = 'echo $$ > "$0/cgroup.procs"; echo started; exec sleep 600'
        environment = {"PATH": os.environ["PATH"], "SECRET": SECRET}
        self._helper = subprocess.Popen(
            ["sh", "-ec", script, str(self._group)], stdout=subprocess.PIPE, env=environment
        )
        assert self._helper.stdout is not None
        assert self._helper.stdout.readline() == b"started\n"

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        self.end()
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()
        with contextlib.suppress(FileNotFoundError):
            cgroup.end(self._group.parents[1])


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with contextlib.closing(Runtime(tmp_path)) as made:
        yield made


@pytest.fixture
def containers() -> Containers:
    return Containers(Path("/proc"))


def seen(containers: Containers, *paths: str) -> dict[str, bytes]:
    look = containers.files(Container("app", id=ID, given=paths or ("/etc/config",)))
    return {file.path: file.data for file in look.files}


def test_the_environment_of_the_first_process(runtime: Runtime, containers: Containers) -> None:
    with pytest.raises(NoProcessError):
        containers.environ(Container("app", id=ID))
    runtime.start(COLOUR="green", LINES="a\nb")
    found = environ.parse(containers.environ(Container("app", id=ID)))
    assert (found["COLOUR"], found["LINES"]) == ("green", "a\nb")
    for other in ("", "d" * 64):
        with pytest.raises(NoProcessError):
            containers.environ(Container("app", id=other))
    runtime.end()
    with pytest.raises(NoProcessError):
        containers.environ(Container("app", id=ID))
    runtime.start(COLOUR="blue")  # the container is started anew, with the same name for once
    assert environ.parse(containers.environ(Container("app", id=ID)))["COLOUR"] == "blue"


def test_helpers_of_the_runtime_are_not_the_container(runtime: Runtime, containers: Containers) -> None:
    runtime.start_helper()
    container = Container("app", id=ID, given=("/etc/config", "/", "/etc", str(runtime.node)))
    for read in (containers.environ, containers.files, containers.signature):
        with pytest.raises(NoProcessError):
            read(container)
    runtime.start(runtime.mount(), COLOUR="green")
    found = environ.parse(containers.environ(container))
    assert (found["COLOUR"], found.get("SECRET")) == ("green", None)
    assert seen(containers)["/etc/config/app.yaml"] == b"colour: green"


@pytest.mark.parametrize("extra", ["", ",+dac_read_search"])
def test_what_belongs_to_another_user_takes_one_more_capability(runtime: Runtime, extra: str) -> None:
    data = runtime.volumes / "config" / "..data"
    os.chmod(data / "app.yaml", 0o400)
    os.chown(data / "app.yaml", 1000, 1000)
    runtime.start(runtime.mount(), user=1000, COLOUR="green")
    script = f"""
from pathlib import Path
from tproxy_node.containers import Containers
from tproxy.model.pod import Container
found = Containers(Path("/proc"))
container = Container("app", id="{ID}", given=("/etc/config",))
assert b"COLOUR=green" in found.environ(container)
assert "/etc/config/app.yaml" in [file.path for file in found.files(container).files]
"""
    chosen = f"--bounding-set=-all,+net_admin,+net_raw,+sys_admin,+sys_ptrace{extra}"
    path = os.pathsep.join(str(ROOT / part) for part in ("", "node-daemon"))
    done = subprocess.run(
        ["setpriv", chosen, sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == bool(extra), done.stderr
    assert extra or "PermissionError" in done.stderr


def test_a_large_environment_is_refused(
    runtime: Runtime, containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.start(BIG="x" * 5000)
    monkeypatch.setattr(module, "MAX_ENVIRON_BYTES", 4096)
    with pytest.raises(TooLargeError):
        containers.environ(Container("app", id=ID))


def test_volumes_as_the_kubelet_writes_them(runtime: Runtime, containers: Containers) -> None:
    mounts = runtime.mount() + runtime.mount(at="srv/one", inside="app.yaml") + runtime.mount(at="srv/a", inside="a")
    (runtime.root / "run").mkdir()
    (runtime.root / "var").mkdir()
    (runtime.root / "var" / "run").symlink_to("/run")  # as in most images; the link is the container's own
    runtime.start(mounts + runtime.mount(at="run/secrets"))
    paths = ("/etc/config", "/srv/one", "/srv/a/", "/var/run/secrets", "/nowhere", "relative", "/")
    assert seen(containers, *paths) == {
        "/etc/config/app.yaml": b"colour: green",
        "/etc/config/a/b": b"deep",
        "/srv/one": b"colour: green",
        "/srv/a/b": b"deep",
        "/var/run/secrets/app.yaml": b"colour: green",
        "/var/run/secrets/a/b": b"deep",
    }
    container = Container("app", id=ID, given=("/etc/config",))
    before = containers.files(container).signature
    assert containers.signature(container) == before
    runtime.volume({"app.yaml": b"colour: blue"})
    assert containers.signature(container) != before
    assert seen(containers) == {"/etc/config/app.yaml": b"colour: blue"}


def test_links_devices_and_pipes_in_a_volume_give_nothing(runtime: Runtime, containers: Containers) -> None:
    data = runtime.volumes / "config" / "..data"
    (runtime.node / "subdirectory").mkdir()
    for name, target in {
        "absolute": runtime.node / "config",
        "relative": Path("../" * 30) / str(runtime.node / "config").lstrip("/"),
        "magic": Path("/proc/self/root") / str(runtime.node / "config").lstrip("/"),
        "directory": runtime.node,
        "root": Path("/"),
        "circle": Path("."),
    }.items():
        (data / name).symlink_to(target)
        (runtime.volumes / "config" / name).symlink_to(target)
    os.mkfifo(data / "pipe")
    os.mknod(data / "device", 0o600 | 0o020000, os.makedev(1, 3))
    for name in ("pipe", "device"):
        (runtime.volumes / "config" / name).symlink_to(f"..data/{name}")
    runtime.start(runtime.mount())
    found = seen(containers)
    assert found["/etc/config/app.yaml"] == b"colour: green"
    assert SECRET.encode() not in found.values()
    assert {path.split("/")[3] for path in found} <= {"app.yaml", "a", "circle"}


def test_a_volumes_path_bent_elsewhere_gives_nothing(runtime: Runtime, containers: Containers) -> None:
    """The container has a hostPath mount, and makes its volume's path lead there."""
    host = runtime.root / "host"
    host.mkdir()
    (runtime.root / "etc").symlink_to("/host")
    runtime.start(f"mount --bind {runtime.node} {host}; mkdir {host}/data; mount --bind {host}/config {host}/config")
    (runtime.root / "proc").mkdir()
    assert seen(containers, "/etc", "/etc/config", "/host", "/host/config", "/etc/..", "/proc/self/root/etc") == {}


def test_what_looks_like_a_volume_but_is_not_mounted_gives_nothing(runtime: Runtime, containers: Containers) -> None:
    _write(runtime.root / "etc" / "config", {"a": Entry(b"b")})
    runtime.start()
    assert seen(containers) == {}


def test_too_much_is_refused(runtime: Runtime, containers: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.volume({f"f{number}": b"x" * 100 for number in range(20)})
    runtime.start(runtime.mount())
    for limit, value in (("MAX_TOTAL_BYTES", 1999), ("MAX_FILES", 9)):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            with pytest.raises(TooLargeError):
                seen(containers)
    assert len(seen(containers)) == 20
    sparse = runtime.volumes / "config" / "..data" / "f1"
    os.truncate(sparse, 1 << 40)
    with pytest.raises(TooLargeError):
        seen(containers)


def test_circles_of_links_end(runtime: Runtime, containers: Containers) -> None:
    data = runtime.volumes / "config" / "..data"
    for number in range(20):
        (data / f"circle{number}").symlink_to(".")
        (runtime.volumes / "config" / f"circle{number}").symlink_to("..data")
    runtime.start(runtime.mount())
    with pytest.raises(TooLargeError):
        seen(containers)
