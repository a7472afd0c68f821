"""What a laptop may read of a container of its Session's namespace: the environment, and the files it was given.

--environment, --files    node   the node reads                                                  the default
                          user   the node says: ask the API server, with the rights you have yourself;
                                 so it does of pods in a sandbox (gVisor, Kata)
                          off    nobody reads through this node daemon
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from tproxy.env.archive import ArchiveError, pack
from tproxy.env.records import RecordError, RecordKind, record
from tproxy.model.flow import FlowKind, ResetReason
from tproxy.model.pod import Container, Pod
from tproxy.netns.refusal import refusal
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Conn
from tproxy_node.containers import Containers, NoProcessError, TooLargeError
from tproxy_node.opening import Identity, Openings
from tproxy_node.paced import Paced

log = logging.getLogger(__name__)

Readers = Literal["node", "user", "off"]
READERS: Sequence[Readers] = ("node", "user", "off")

LOOK_SECONDS = 1.0
"""How often a container's files are looked at while a laptop follows them; the kubelet takes up to a minute itself."""

READ_SECONDS = 10.0
MAX_THREADS = 8
"""Reads at the same time. One that a hostile container holds up for ever keeps its place: others wait no longer."""

MAX_FOLLOWED = 256

T = TypeVar("T")


class _RefusedError(Exception):
    """Nothing is read, for a reason that the laptop is told."""

    def __init__(self, reason: ResetReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Reading:
    """Serves READ. `pods` are those of this node."""

    def __init__(
        self, containers: Containers, pods: Callable[[], Sequence[Pod]], environment: Readers, files: Readers
    ) -> None:
        self._containers = containers
        self._pods = pods
        self._readers = {"environ": environment, "files": files}
        self._serve = {"environ": self._environ, "files": self._files}
        self._served = 0
        self._threads = 0
        self._tasks = Tasks("reading")

    def join(self, openings: Openings) -> None:
        """Serve what laptops open of this kind."""
        openings.add(FlowKind.READ, tuple(self._serve), self.open)

    def open(self, identity: Identity, conn: Conn) -> None:
        """A laptop opened `conn` in order to read."""
        if self._served >= MAX_FOLLOWED:
            conn.reset(ResetReason.LIMIT, "too many laptops read from this node")
            return
        answer = Paced(conn)
        self._served += 1
        task = self._tasks.start(self._answer(identity, conn, answer), conn.request.protocol)
        task.add_done_callback(self._ended)
        answer.on_gone = task.cancel

    async def close(self) -> None:
        """Stop reading. Threads that hang are left behind; they do not keep the process from ending."""
        await self._tasks.close()

    def _ended(self, _: object) -> None:
        self._served -= 1

    async def _answer(self, identity: Identity, conn: Conn, answer: Paced) -> None:
        request = conn.request
        try:
            readers = self._readers[request.protocol]
            if readers == "off":
                what = "environment" if request.protocol == "environ" else "files"
                raise _RefusedError(ResetReason.DENIED, f"containers' {what} may not be read in this cluster")
            pod, _ = self._find(identity, conn)
            conn.accept()
            # The processes of a sandbox are the sandbox's: what they were given is not what the container was.
            if readers == "user" or refusal(False, pod.runtime_class) is not None:
                await answer.write(record(RecordKind.OWN_RIGHTS))
            else:
                log.info(
                    "a laptop reads a container's %s",
                    request.protocol,
                    extra={
                        "session": identity.name,
                        "user": identity.user,
                        "pod": request.pod,
                        "container": request.container,
                    },
                )
                await self._serve[request.protocol](identity, conn, answer)
            conn.write_eof()
        except _RefusedError as error:
            conn.reset(error.reason, error.detail)
        except Exception:
            log.exception("reading failed", extra={"rate_key": "reading"})
            conn.reset(ResetReason.INTERNAL, "the node daemon failed")

    async def _environ(self, identity: Identity, conn: Conn, answer: Paced) -> None:
        _, container = self._find(identity, conn)
        block = await self._read(lambda: self._containers.environ(container))
        await answer.write(record(RecordKind.ENVIRON, block))

    async def _files(self, identity: Identity, conn: Conn, answer: Paced) -> None:
        """Send the files; again whenever they have changed, until the laptop ends it or the pod goes."""
        sent: bytes | None = None
        signature: tuple[object, ...] | None = None
        while True:
            _, container = self._find(identity, conn)
            try:
                seen = await self._read(lambda one=container: self._containers.signature(one))  # type: ignore[misc]
                if seen != signature:
                    look = await self._read(lambda one=container: self._containers.files(one))  # type: ignore[misc]
                    signature, archive = look.signature, pack(look.files)
                    if archive != sent:
                        await answer.write(record(RecordKind.FILES, archive))
                        sent = archive
            except _RefusedError as error:
                # A container that is just being started anew has no process; nothing has changed for the laptop.
                if sent is None or error.reason is not ResetReason.UNREACHABLE:
                    raise
            except (ArchiveError, RecordError) as error:
                raise _RefusedError(ResetReason.LIMIT, str(error)) from error
            await asyncio.sleep(LOOK_SECONDS)

    def _find(self, identity: Identity, conn: Conn) -> tuple[Pod, Container]:
        """The pod and container asked for, if they are the session's business."""
        namespace, _, name = conn.request.pod.partition("/")
        pods = [pod for pod in self._pods() if (pod.namespace, pod.name) == (namespace, name)]
        # The same answer whether it exists or not.
        if namespace != identity.namespace or not pods:
            raise _RefusedError(ResetReason.UNREACHABLE, f"no pod {name} of namespace {identity.namespace} is here")
        pod, wanted = pods[0], conn.request.container
        for container in pod.containers:
            if container.name == wanted:
                return pod, container
        known = ", ".join(container.name for container in pod.containers)
        raise _RefusedError(ResetReason.UNREACHABLE, f"pod {name} has no container {wanted}; it has {known}")

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._in_thread(work)
        except TimeoutError:
            raise _RefusedError(ResetReason.TIMED_OUT, f"reading took longer than {READ_SECONDS:g} s") from None
        except NoProcessError:
            raise _RefusedError(ResetReason.UNREACHABLE, "the container has no running process") from None
        except TooLargeError as error:
            raise _RefusedError(ResetReason.LIMIT, str(error)) from None
        except PermissionError:
            raise _RefusedError(ResetReason.DENIED, "the node daemon may not read it without DAC_READ_SEARCH") from None
        except OSError as error:
            raise _RefusedError(ResetReason.INTERNAL, f"cannot read: {error.strerror or error}") from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread of its own that may hang for ever: the loop and the process' end never wait for it."""
        if self._threads >= MAX_THREADS:
            raise _RefusedError(ResetReason.LIMIT, "too many laptops read from this node at once")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def deliver(value: T | None, error: BaseException | None) -> None:
            self._threads -= 1
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            value, error = None, None
            try:
                value = work()
            except BaseException as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(deliver, value, error)

        self._threads += 1
        threading.Thread(target=run, name="reading", daemon=True).start()
        return await result
