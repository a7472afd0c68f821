"""What a person reads when the kernel refuses."""

import errno
import os

import pytest

from tproxy.errors import DeniedError
from tproxy.steer.diagnosis import explain
from tproxy.steer.libbpf import BpfError


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("release", ["5.8.0-63-generic", "4.18.0-553.el8_10.x86_64", "5.4"])
def test_old_kernel(release: str) -> None:
    error = explain(refused(errno.EINVAL), "steer with sk_lookup", release)
    assert error.message == f"cannot steer with sk_lookup: Linux {release} has no sk_lookup programs"
    assert "5.9" in error.hint


@pytest.mark.parametrize("release", ["5.9.0", "5.10.0-28-amd64", "6.1.0", "10.0", "nonsense"])
def test_new_kernel_is_not_blamed(release: str) -> None:
    assert "no sk_lookup" not in explain(refused(errno.EINVAL), "steer", release).message


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_denied(number: int) -> None:
    error = explain(refused(number), "steer", "6.1")
    assert isinstance(error, DeniedError)
    assert error.exit_code == 4
    assert "CAP_SYS_ADMIN" in error.hint


def test_the_verifier_is_not_a_matter_of_rights() -> None:
    lines = tuple(f"line {number}" for number in range(20))
    error = explain(BpfError(errno.EACCES, "load sk_lookup.bpf.o", lines), "steer", "6.1")
    assert not isinstance(error, DeniedError)
    assert "line 19" in error.message
    assert "line 13" not in error.message


def test_no_bpf() -> None:
    error = explain(refused(errno.ENOSYS), "steer", "6.1")
    assert "without BPF" in error.message
    assert "CONFIG_BPF_SYSCALL" in error.hint


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_files(number: int) -> None:
    assert "too many open files" in explain(refused(number), "steer", "6.1").message


def test_anything_else_says_what_and_why() -> None:
    error = explain(refused(errno.ENOMEM), "steer in the network namespace 7", "6.1")
    assert error.message == "cannot steer in the network namespace 7: Cannot allocate memory"
    assert error.hint
