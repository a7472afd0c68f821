"""User, network and mount namespaces of a process of our own, without root.

An ordinary user may make a user namespace, and in it has every right over the other namespaces made with it. The user
is mapped to itself: the rights last until exec, so what is started then runs as who it was, with none of them. Only
the own group can be mapped (user_namespaces(7)): other groups still count, and `id` shows them as `nogroup`.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_SYS_ADMIN = 12, 13, 21
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 4, 8
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2

_libc = ctypes.CDLL(None, use_errno=True)


RIGHTS = "rights in a user namespace"


class RestrictedError(Exception):
    """The system does not let this user have that; `step` says what, `errno` how."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(f"{step}: {os.strerror(number)}")
        self.step = step
        self.errno = number


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Descriptors of the namespaces; `user` is None where root needed no namespace of users."""

    user: int | None
    net: int
    mount: int

    @classmethod
    def of_process(cls, with_user: bool) -> "Namespaces":
        """Those of the calling process."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        user = os.open("/proc/self/ns/user", flags) if with_user else None
        return cls(user, os.open("/proc/self/ns/net", flags), os.open("/proc/self/ns/mnt", flags))

    @property
    def descriptors(self) -> Sequence[int]:
        """In the order in which they are to be entered."""
        return [*([] if self.user is None else [self.user]), self.net, self.mount]

    @classmethod
    def of_descriptors(cls, descriptors: Sequence[int]) -> "Namespaces":
        """The reverse of `descriptors`."""
        user, net, mount = (None, *descriptors)[-3:]
        assert net is not None  # noqa: S101
        assert mount is not None  # noqa: S101
        return cls(user, net, mount)

    def enter(self) -> None:
        """Move the calling process, which must have one thread, into them. Raises OSError."""
        for descriptor in self.descriptors:
            _check(_libc.setns(descriptor, 0))


def create() -> bool:
    """Move the calling process, which must have one thread, into namespaces of its own; whether of users as well.

    Raises RestrictedError.
    """
    if os.geteuid() == 0 and _unshare(CLONE_NEWNET | CLONE_NEWNS) is None:
        _keep_mounts()
        return False
    uid, gid = os.geteuid(), os.getegid()
    # One after the other, so that it is known which of them is the one that cannot be had.
    for step, flag in (("user", CLONE_NEWUSER), ("network", CLONE_NEWNET), ("mount", CLONE_NEWNS)):
        if (number := _unshare(flag)) is not None:
            raise RestrictedError(f"a {step} namespace", number)
        if flag == CLONE_NEWUSER:
            _map(uid, gid)
    _keep_mounts()
    return True


def _map(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            # As AppArmor has it: the namespace is there, but none of the rights that go with it.
            raise RestrictedError(RIGHTS, error.errno or errno.EPERM) from error


def _keep_mounts() -> None:
    """What is mounted on the machine later shows in here as well, and nothing the other way round."""
    if _libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None):
        raise RestrictedError("mounts of its own", ctypes.get_errno())


def become_user(uid: int, gid: int) -> None:
    """From root, become an ordinary user who may make namespaces all the same, and nothing else. Raises OSError.

    `create` then makes them that user's own, and gives up the rest. Until then nobody without that right may look into
    this process (ptrace(2)), although it counts as dumpable, without which it could not write its own maps of users.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(1 << _CAP_SYS_ADMIN, 1 << _CAP_SYS_ADMIN)  # effective and permitted
    _check(_libc.capset(header, data))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def keep_rights_over_exec() -> None:
    """Let programs that this process executes keep the rights over its network namespace. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data))
    for capability in (_CAP_NET_ADMIN, _CAP_NET_RAW):
        data[2] |= 1 << capability  # inheritable
    _check(_libc.capset(header, data))
    for capability in (_CAP_NET_ADMIN, _CAP_NET_RAW):
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def processes_in(net: int) -> list[int]:
    """The processes in a network namespace, given by descriptor, as far as this process may know."""
    wanted = os.fstat(net)
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{name}/ns/net")
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(name))
    return found


def _unshare(flags: int) -> int | None:
    return ctypes.get_errno() if _libc.unshare(flags) else None


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
