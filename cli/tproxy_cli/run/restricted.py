"""Why this machine does not let an ordinary user have namespaces, and what to do about it."""

import errno
import os
import sys

from tproxy.errors import DeniedError, TproxyError

APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
DEBIAN = "/proc/sys/kernel/unprivileged_userns_clone"
CONTAINER = "/.dockerenv"
MAXIMA = {"user": "/proc/sys/user/max_user_namespaces", "network": "/proc/sys/user/max_net_namespaces"}

MODULES = "`sudo modprobe -a xt_TPROXY xt_socket xt_mark nfnetlink_queue xt_NFQUEUE ipt_REJECT ip6t_REJECT`"


SUDO = "have sudo make it: `tproxy run --sudo -- CMD`, which runs CMD as you"


def explain(step: str, number: int) -> TproxyError:
    """The error for a step of the set-up that failed with an error number."""
    if step.startswith("rules"):
        return TproxyError(
            f"this kernel cannot catch traffic: {step.removeprefix('rules: ')}", f"load what is missing: {MODULES}"
        )
    why, remedy = _cause(step, number)
    return DeniedError(f"this system does not let you make a {step}: {why}", f"{remedy}; or {SUDO}")


def _cause(step: str, number: int) -> tuple[str, str]:
    if _number(APPARMOR) == 1:
        return (
            "AppArmor restricts unprivileged user namespaces",
            f"allow them to this interpreter: {apparmor_remedy()}",
        )
    if _number(DEBIAN) == 0:
        return "kernel.unprivileged_userns_clone is 0", "`sudo sysctl kernel.unprivileged_userns_clone=1`"
    for name, path in MAXIMA.items():
        if _number(path) == 0:
            return (
                f"user.max_{'user' if name == 'user' else 'net'}_namespaces is 0",
                f"`sudo sysctl {_sysctl(path)}=1000`",
            )
    if number == errno.ENOSPC:
        return "there are too many already", f"raise the limit: `sudo sysctl {_sysctl(MAXIMA['user'])}=10000`"
    if number == errno.EPERM and os.path.exists(CONTAINER):
        return "this container forbids it", "start it with `--security-opt seccomp=unconfined`, or with `--privileged`"
    return os.strerror(number), "an administrator can say what forbids it; `unshare -Urn true` shows whether it works"


def apparmor_remedy() -> str:
    """The commands that allow it for our interpreter alone."""
    interpreter = os.path.realpath(sys.executable)
    profile = f"abi <abi/4.0>, include <tunables/global> profile tproxy {interpreter} flags=(unconfined) {{ userns, }}"
    return f"`echo '{profile}' | sudo tee /etc/apparmor.d/tproxy && sudo apparmor_parser -r /etc/apparmor.d/tproxy`"


def _sysctl(path: str) -> str:
    return path.removeprefix("/proc/sys/").replace("/", ".")


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
