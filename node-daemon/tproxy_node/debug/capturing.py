"""`capture`: the packets of a pod's network as pcapng, by a process made for it."""

import asyncio
import contextlib
import json
import logging

from tproxy.errors import ClusterError, TproxyError
from tproxy.model.pod import Pod
from tproxy.model.tracing import MAX_PACKETS, MAX_SECONDS, SECONDS, SNAP_LENGTH
from tproxy_node.child import Child
from tproxy_node.debug.questions import Question, Questions, Reply
from tproxy_node.debug.subjects import Subjects
from tproxy_node.places import Place

log = logging.getLogger(__name__)

MODULE = "tproxy_node.capture"
MAX_CAPTURES = 2
"""At a time, whoever asks."""

MEMORY = 128 << 20
READY_SECONDS = 15.0
LOOK_SECONDS = 1.0
"""How often it is looked whether the pod still exists: its network lives as long as somebody holds it, and we do."""

_CHUNK = 64 * 1024


class Captures:
    """Answers `capture`."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._running = 0

    def join(self, questions: Questions) -> None:
        """Answer from now on."""
        questions.add("capture", self.answer, debugger=True)

    async def answer(self, question: Question, reply: Reply) -> None:
        """See `Answer`."""
        asked: dict[str, str | int] = {
            "pod": question.text("pod"),
            "port": question.number("port", 0, 65535, 0),
            "snapLength": question.number("snapLength", 64, SNAP_LENGTH, SNAP_LENGTH),
            "packets": question.number("packets", 1, MAX_PACKETS, MAX_PACKETS),
            "memory": MEMORY,
        }
        seconds = question.number("seconds", 1, MAX_SECONDS, SECONDS)
        if self._running >= MAX_CAPTURES:
            raise TproxyError(
                "too many captures run on this node",
                f"end one of them, or wait: no more than {MAX_CAPTURES} run at a time",
            )
        self._running += 1
        try:
            place = await self._subjects.one(question.text("pod"))
            try:
                await self._run(asked, place, seconds, reply)
            finally:
                place.netns.close()
        finally:
            self._running -= 1

    async def _run(self, asked: dict[str, str | int], place: Place, seconds: float, reply: Reply) -> None:
        try:
            child = await Child.start(MODULE)
        except OSError as error:
            raise ClusterError(f"no process to capture with: {error.strerror or error}") from error
        try:
            child.tell(asked, [place.netns.fileno()])
            await _ready(child)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._pass_on(child, place.pod, reply)
        except OSError as error:
            raise _failed("it does not listen any more") from error
        finally:
            complaints = await child.close()
            if complaints:
                log.warning("capturing complained: %s", complaints[-2000:], extra={"rate_key": "capture"})

    async def _pass_on(self, child: Child, pod: Pod, reply: Reply) -> None:
        """Until it has said all that it was asked for, or the pod is gone."""
        while self._subjects.exists(pod):
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    data = await child.some(_CHUNK)
            except TimeoutError:
                continue
            if not data:
                return
            await reply.send(data)


async def _ready(child: Child) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            line = await child.line()
        said = json.loads(line) if line else None
    except TimeoutError:
        raise _failed(f"it was not ready within {READY_SECONDS:g} s") from None
    except ValueError as error:
        raise _failed("it says something else than it should") from error
    if said is None:
        raise _failed("it has ended")
    if "error" in said:
        raise ClusterError(said["error"], said["hint"])


def _failed(why: str) -> ClusterError:
    return ClusterError(f"the process that captures failed: {why}", "the node daemon's log says more")
