"""Why this machine does not let an ordinary user have namespaces, and what to do about it."""

import errno
import os
import sys

from tproxy.errors import DeniedError, TproxyError

APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
DEBIAN = "/proc/sys/kernel/unprivileged_userns_clone"
CONTAINERS = ("/.dockerenv", "/run/.containerenv")
"""Docker's and Podman's."""

MAXIMA = {
    "a user namespace": "/proc/sys/user/max_user_namespaces",
    "a network namespace": "/proc/sys/user/max_net_namespaces",
    "a mount namespace": "/proc/sys/user/max_mnt_namespaces",
}

MODULES = "`sudo modprobe -a xt_TPROXY xt_socket xt_mark nfnetlink_queue xt_NFQUEUE ipt_REJECT ip6t_REJECT`"

SUDO = "have sudo make it: `tproxy run --sudo -- CMD`, which runs CMD as you"


def explain(step: str, number: int) -> TproxyError:
    """The error for a step of the set-up that failed with an error number."""
    if step.startswith("rules"):
        return TproxyError(
            f"this kernel cannot catch traffic: {step.removeprefix('rules: ')}", f"load what is missing: {MODULES}"
        )
    why, remedy = _cause(step, number)
    return DeniedError(f"this system does not let you have {step}: {why}", remedy)


def _cause(step: str, number: int) -> tuple[str, str]:
    """Why, and the remedy: root can have what is forbidden to users, but limits and containers are root's as well."""
    if number == errno.ENOSPC and (path := MAXIMA.get(step)):
        if _number(path) == 0:
            return f"{_sysctl(path)} is 0", f"`sudo sysctl {_sysctl(path)}=1000`"
        return "there are too many already", f"raise the limit: `sudo sysctl {_sysctl(path)}=10000`"
    if number in (errno.EPERM, errno.EACCES):
        if _number(DEBIAN) == 0:
            remedy = f"`sudo sysctl {_sysctl(DEBIAN)}=1`"
            return f"{_sysctl(DEBIAN)} is 0", f"{remedy}; or {SUDO}"
        if _number(APPARMOR) == 1:
            everybody = f"to everybody: `sudo sysctl {_sysctl(APPARMOR)}=0`"
            remedy = f"allow them to this interpreter: {apparmor_remedy()}; or {everybody}"
            return "AppArmor restricts unprivileged user namespaces", f"{remedy}; or {SUDO}"
        if any(map(os.path.exists, CONTAINERS)):
            remedy = "start it with `--security-opt seccomp=unconfined`, or with `--privileged`"
            return "this container forbids it", remedy
    unknown = "an administrator can say what forbids it; `unshare -Urn true` shows whether it works"
    return os.strerror(number), f"{unknown}; or {SUDO}"


def apparmor_remedy() -> str:
    """The commands that allow it for our interpreter alone."""
    interpreter = os.path.realpath(sys.executable)
    rule = f'profile tproxy "{interpreter}" flags=(unconfined) {{ userns, }}'
    profile = f"abi <abi/4.0>, include <tunables/global> {rule}"
    return f"`echo '{profile}' | sudo tee /etc/apparmor.d/tproxy && sudo apparmor_parser -r /etc/apparmor.d/tproxy`"


def _sysctl(path: str) -> str:
    return path.removeprefix("/proc/sys/").replace("/", ".")


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
