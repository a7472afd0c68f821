"""A command line's half of a run where the system restricts users: `python -m tests.kernel.run_restricted KIND -- CMD`.

KIND is a limit of namespaces (`user`, `net`, `mnt`), which is 0 then; or who forbids them: `container`, `debian` or
`apparmor`. What forbids is a filter of system calls, as containers have one; the kernel's settings that say who did it
are files in a mount namespace. All of it is this process's own: an ordinary user may have it.
"""

import ctypes
import os
import struct
import sys

from tproxy.netns import userns

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_EPERM = 1
_UNSHARE = {"x86_64": 272, "aarch64": 97}
SETTINGS = {"debian": ("unprivileged_userns_clone", "0"), "apparmor": ("apparmor_restrict_unprivileged_userns", "1")}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    kind = sys.argv[1]
    userns.create()
    if kind in ("user", "net", "mnt"):
        write(f"/proc/sys/user/max_{kind}_namespaces", "0")
    else:
        if kind in SETTINGS:
            name, value = SETTINGS[kind]
            hide("/proc/sys/kernel")
            write(f"/proc/sys/kernel/{name}", value)
        elif kind == "container":
            hide("/run")
            write("/run/.containerenv", "")
        forbid_unshare()
    # The rights over these namespaces end here; the restrictions stay.
    os.execv(sys.executable, [sys.executable, "-m", "tests.kernel.run_client", *sys.argv[2:]])  # noqa: S606


def hide(directory: str) -> None:
    """Cover a directory by an empty one."""
    if _libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, b"mode=755"):
        raise OSError(ctypes.get_errno(), directory)


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def forbid_unshare() -> None:
    """As a container's filter does: EPERM for unshare(2), everything else as ever (seccomp(2))."""
    instructions = [
        struct.pack("HBBI", _LOAD, 0, 0, 0),  # the number of the system call
        struct.pack("HBBI", _EQUAL, 0, 1, _UNSHARE[os.uname().machine]),
        struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | _EPERM),
        struct.pack("HBBI", _RETURN, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(instructions))
    filtering = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(program))
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filtering, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    main()
