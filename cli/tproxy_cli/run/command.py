"""The command itself: found as a shell finds it, started inside the namespaces, waited for as a shell expects.

It stays in the command line's process group, so the terminal treats the two as one job. Signals of the terminal reach
it by themselves; those that are sent to the command line alone are passed on. When it stops, so does the command line,
and the shell takes over; when the command line dies, however that happens, the kernel ends it.
"""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tproxy.errors import InvalidError, TproxyError
from tproxy.netns.userns import Namespaces

NOT_FOUND = 127
NOT_EXECUTABLE = 126
"""Exit statuses as shells have them."""

_PR_SET_PDEATHSIG = 1
_SFD_CLOEXEC, _SFD_NONBLOCK = 0o2000000, 0o4000
_SIGINFO = struct.Struct("=IiiI")  # the beginning of struct signalfd_siginfo: signal, errno, code, pid
_SIGINFO_SIZE = 128
_SI_KERNEL = 0x80

FORWARDED = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_WATCHED = (*FORWARDED, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_libc = ctypes.CDLL(None, use_errno=True)


class NotStartedError(TproxyError):
    """The command cannot be executed."""


def find(name: str, environment: Mapping[str, str]) -> str:
    """The file that a shell would execute for `name`. Raises NotStartedError."""
    if not name:
        raise InvalidError("the command is an empty word", "write it after `--`: `tproxy run -- CMD`")
    if "/" in name:
        _check(name, name)
        return name
    refused = None
    for directory in environment.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            refused = refused or path
    if refused is not None:
        raise _not_executable(refused, errno.EACCES)
    raise NotStartedError(f"command not found: {name}", "see what PATH has: `echo $PATH`", NOT_FOUND)


def _check(name: str, path: str) -> None:
    if not os.path.exists(path):
        raise NotStartedError(
            f"no such file: {name}", f"`ls -l {os.path.dirname(path) or '.'}` shows what there is", NOT_FOUND
        )
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise _not_executable(path, errno.EISDIR if os.path.isdir(path) else errno.EACCES)


def _not_executable(path: str, number: int) -> NotStartedError:
    return NotStartedError(f"cannot execute {path}: {os.strerror(number)}", f"look at `ls -ld {path}`", NOT_EXECUTABLE)


class Command:
    """One execution of a command. Signals are taken over from construction to `close`."""

    def __init__(self) -> None:
        self.pid = 0
        self._ended: int | None = None
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._signals = _signalfd(_WATCHED)

    def fileno(self) -> int:
        """Readable when `handle` has something to do."""
        return self._signals

    def start(self, path: str, words: Sequence[str], environment: Mapping[str, str], namespaces: Namespaces) -> None:
        """Execute it inside. Raises NotStartedError."""
        directory = os.getcwd()
        read, write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            self._become(path, words, environment, namespaces, directory, parent, write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            failed = pipe.read()
        if failed:
            os.waitpid(self.pid, 0)
            number = int(failed)
            if number in (errno.ENOENT, errno.ENOTDIR):  # a script whose interpreter is missing, for one
                raise NotStartedError(
                    f"cannot execute {path}: its interpreter is missing", f"`head -1 {path}` names it", NOT_FOUND
                )
            raise _not_executable(path, number)

    def _become(
        self,
        path: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        namespaces: Namespaces,
        directory: str,
        parent: int,
        write: int,
    ) -> NoReturn:
        try:
            namespaces.enter()
            os.chdir(directory)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
                signal.signal(number, signal.SIG_DFL)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:
                signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
                os.execve(path, list(words), dict(environment))  # noqa: S606 -- what run is for
        except OSError as error:
            if error.errno == errno.ENOEXEC:  # a script without a first line that names its interpreter
                _as_script(path, words, environment)
            os.write(write, str(error.errno or errno.EINVAL).encode())
        finally:
            os._exit(NOT_FOUND)

    def handle(self) -> int | None:
        """Do what signals ask for; the exit status when the command has ended."""
        for number, code, sender in _read(self._signals):
            if number == signal.SIGCHLD:
                self._look()
            elif number in FORWARDED and code != _SI_KERNEL and sender != self.pid:
                self.kill(number)
        return self._ended

    def kill(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.pid and self._ended is None:
            os.kill(self.pid, number)

    def _look(self) -> None:
        stopped = False
        while self._ended is None:
            found, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not found and not stopped:
                return
            if not found:
                os.kill(self.pid, signal.SIGCONT)
                stopped = False
            elif os.WIFSTOPPED(status):
                # The shell sees us stop, and us go on when it wants the job to go on. It lets all of a job go on: the
                # command may do so before us, and may have been stopped again, which must not be undone.
                os.kill(os.getpid(), signal.SIGSTOP)
                stopped = True
            elif os.WIFCONTINUED(status):
                stopped = False
            else:
                code = os.waitstatus_to_exitcode(status)
                self._ended = code if code >= 0 else 128 - code

    def close(self) -> None:
        """Give signals back."""
        os.close(self._signals)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _as_script(path: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
    try:
        os.execve("/bin/sh", ["sh", path, *words[1:]], dict(environment))  # noqa: S606
    except OSError:
        return


def _signalfd(numbers: Sequence[signal.Signals]) -> int:
    mask = ctypes.create_string_buffer(128)  # sigset_t
    _libc.sigemptyset(mask)
    for number in numbers:
        _libc.sigaddset(mask, int(number))
    descriptor = int(_libc.signalfd(-1, mask, _SFD_CLOEXEC | _SFD_NONBLOCK))
    if descriptor < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return descriptor


def _read(descriptor: int) -> list[tuple[int, int, int]]:
    """Signals that have come: number, code and sender."""
    found: list[tuple[int, int, int]] = []
    while True:
        try:
            data = os.read(descriptor, _SIGINFO_SIZE)
        except BlockingIOError:
            return found
        number, _, code, sender = _SIGINFO.unpack_from(data)
        found.append((number, code, sender))
