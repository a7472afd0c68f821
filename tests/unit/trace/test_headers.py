"""Kernel headers, wherever distributions put them."""

import tarfile
from pathlib import Path

import pytest

from tproxy.errors import TproxyError
from tproxy.trace import headers
from tproxy.trace.headers import Headers


def generated(root: Path, place: str) -> Path:
    path = root / place
    (path / "include/generated").mkdir(parents=True)
    (path / "include/generated/autoconf.h").touch()
    (path / "arch/x86/include/generated").mkdir(parents=True)
    return path


def source(root: Path, place: str) -> Path:
    path = root / place
    (path / "include/linux").mkdir(parents=True)
    (path / "include/linux/kconfig.h").touch()
    return path


def test_none(tmp_path: Path) -> None:
    assert headers.find("6.1.0", tmp_path) is None
    source(tmp_path, "usr/src/linux-headers-6.1.0-common")  # of no use alone
    assert headers.find("6.1.0", tmp_path) is None


def test_one_directory(tmp_path: Path) -> None:
    path = generated(tmp_path, "usr/src/linux-headers-6.8.0-31-generic")
    source(tmp_path, "usr/src/linux-headers-6.8.0-31-generic")
    assert headers.find("6.8.0-31-generic", tmp_path) == Headers(path, path)
    assert Headers(path, path).flags() == []


def test_two_directories(tmp_path: Path) -> None:
    two = generated(tmp_path, "usr/src/linux-headers-6.1.0-56-amd64")
    common = source(tmp_path, "usr/src/linux-headers-6.1.0-56-common")
    found = headers.find("6.18.44", tmp_path)
    assert found == Headers(common, two)
    assert found.flags() == [
        f"-I{two}/{path}"
        for path in (
            "arch/x86/include/generated",
            "arch/x86/include/generated/uapi",
            "include",
            "include/generated/uapi",
        )
    ]


def test_two_directories_of_which_one_names_the_other(tmp_path: Path) -> None:
    two = generated(tmp_path, "usr/src/linux-headers-6.12.9-cloud-amd64")
    common = source(tmp_path, "usr/src/linux-headers-6.12.9-common")
    (two / "Makefile").write_text("include /usr/src/linux-headers-6.12.9-common/Makefile\n")
    assert headers.find("6.1", tmp_path) == Headers(common, two)


def test_a_build_with_a_source_beside_it(tmp_path: Path) -> None:
    build = generated(tmp_path, "lib/modules/6.1.0/build")
    other = source(tmp_path, "lib/modules/6.1.0/source")
    assert headers.find("6.1.0", tmp_path) == Headers(other, build)


def test_the_running_kernel_s_before_newer_ones(tmp_path: Path) -> None:
    for version in ("5.15.0-9", "6.2.0-10", "6.2.0-9"):
        generated(tmp_path, f"usr/src/linux-headers-{version}-generic")
        source(tmp_path, f"usr/src/linux-headers-{version}-generic")
    link = tmp_path / "lib/modules/5.15.0-9-generic/build"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "usr/src/linux-headers-5.15.0-9-generic")
    found, newest = headers.find("5.15.0-9-generic", tmp_path), headers.find("6.18", tmp_path)
    assert found is not None
    assert found.generated.name == "linux-headers-5.15.0-9-generic"
    assert newest is not None
    assert newest.generated.name == "linux-headers-6.2.0-10-generic", "numbers are compared as numbers"


def test_those_in_the_kernel(tmp_path: Path) -> None:
    tree = source(tmp_path, "tree")
    generated(tmp_path, "tree")
    (tree / "kernel").mkdir()
    (tree / "kernel/no-header.c").touch()
    packed = tmp_path / "sys/kernel/kheaders.tar.xz"
    packed.parent.mkdir(parents=True)
    with tarfile.open(packed, "w:xz") as tar:
        tar.add(tree, ".")
    assert headers.archive(tmp_path / "none") is None
    assert headers.archive(tmp_path) == packed
    to = tmp_path / "unpacked"
    assert headers.unpack(packed, to) == Headers(to, to)
    assert (to / "include/linux/kconfig.h").exists()
    assert not (to / "kernel").exists()


def test_something_else_in_the_kernel(tmp_path: Path) -> None:
    packed = tmp_path / "kheaders.tar.xz"
    packed.write_bytes(b"nothing of the kind")
    with pytest.raises(TproxyError, match="cannot unpack the kernel's own headers"):
        headers.unpack(packed, tmp_path / "to")
