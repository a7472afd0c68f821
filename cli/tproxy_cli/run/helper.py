"""The process inside, started by root for a user who may not make namespaces: `python -m tproxy_cli.run.helper`.

    command line ──sudo──▶ helper ──fork──▶ becomes the user, makes the namespaces, and is the process inside

Whose it is says the kernel: the user at the other end of the socket on stdin, whom the process becomes before it is
told anything. The namespaces are then as much the user's own as if nothing had been restricted, and the command never
has other rights. Nothing of root's is left once they are made.
"""

import os
import signal
import socket
import stat
import struct
import sys
from typing import NoReturn

from tproxy.netns import userns
from tproxy_cli.run import inside, packets

_UCRED = struct.Struct("=iII")


def main() -> int:
    """Exit status for sudo, once the run is over."""
    if os.geteuid() != 0 or not stat.S_ISSOCK(os.fstat(0).st_mode):
        print("tproxy: this is started by `tproxy run --sudo`, as root", file=sys.stderr)
        return 1
    command_line = socket.socket(fileno=os.dup(0))
    _, uid, gid = _UCRED.unpack(command_line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # they are for the command; the end of the command line ends all
    if pid := os.fork():
        command_line.close()
        os.close(0)
        os.waitpid(pid, 0)
        return 0
    _be(command_line, uid, gid)


def _be(command_line: socket.socket, uid: int, gid: int) -> NoReturn:
    try:
        os.chdir("/")
        userns.become_user(uid, gid)
        packets.send(command_line, {"started": {}})
        received = packets.receive(command_line)
        if received is not None:
            message, descriptors = received
            inside.become((command_line, socket.socket(fileno=descriptors[0])), str(message["scratch"]))
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
