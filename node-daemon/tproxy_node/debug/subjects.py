"""The pods that somebody wants to look into: found by name, with their network namespaces."""

import asyncio
from collections.abc import Callable, Sequence

from tproxy.errors import ClusterError, InvalidError
from tproxy.model.pod import Pod
from tproxy.netns.refusal import Refusal, refusal
from tproxy_node.places import Place, Places

ENDED = ("Succeeded", "Failed")


class Subjects:
    """`pods` are those of this node."""

    def __init__(self, pods: Callable[[], Sequence[Pod]], places: Places, node: str) -> None:
        self._pods = pods
        self._places = places
        self._node = node

    def here(self) -> list[Pod]:
        """Pods that have a network of their own which this node's kernel sees."""
        return [pod for pod in self._existing() if refusal(pod.host_network, pod.runtime_class) is None]

    async def one(self, named: str) -> Place:
        """The pod `NAMESPACE/NAME`, its namespace the caller's to close. Raises TproxyError."""
        pod = self.called(named)
        answer = refusal(pod.host_network, pod.runtime_class) or (await self._find([pod]))[pod.uid]
        if isinstance(answer, Refusal):
            raise ClusterError(f"pod {named} cannot be looked into: {answer.message}")
        return answer

    def called(self, named: str) -> Pod:
        """The pod `NAMESPACE/NAME`. Raises TproxyError."""
        namespace, slash, name = named.partition("/")
        if not slash or not namespace or not name or "/" in name:
            raise InvalidError(f"{named!r} is not NAMESPACE/NAME of a pod")
        for pod in self._existing():
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        raise ClusterError(
            f"no pod {named} runs on node {self._node}",
            f"`kubectl get pod -n {namespace} -o wide` shows what runs where",
        )

    def exists(self, pod: Pod) -> bool:
        """Whether it has not ended, nor made room for another one of its name."""
        return any(pod.uid == one.uid for one in self._existing())

    def _existing(self) -> list[Pod]:
        return [pod for pod in self._pods() if pod.phase not in ENDED and pod.addresses]

    async def places(self, pods: Sequence[Pod]) -> list[Place]:
        """The same of many, without those that cannot be looked into."""
        if not pods:
            return []
        return [answer for answer in (await self._find(pods)).values() if isinstance(answer, Place)]

    async def _find(self, pods: Sequence[Pod]) -> dict[str, Place | Refusal]:
        try:
            # Looking through /proc takes time on a full node, and the loop has a lease to renew.
            return dict(await asyncio.get_running_loop().run_in_executor(None, self._places.find, pods))
        except OSError as error:
            raise ClusterError(f"cannot look for pods' networks: {error.strerror or error}") from error
