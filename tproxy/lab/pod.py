"""One pod on its node: a sandbox with a network, containers in it, and the status that says so."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tproxy.env.spec import data_of
from tproxy.errors import TproxyError
from tproxy.kube.errors import NotFoundError, StaleError
from tproxy.kube.port import CONFIGMAPS, PODS, SECRETS, Object
from tproxy.lab import cgroup, logs, network
from tproxy.lab.addresses import Node, PodAddresses
from tproxy.lab.api.store import Store, now
from tproxy.lab.container import Container, Place
from tproxy.lab.layout import PATH, Layout
from tproxy.lab.pod_status import PodFacts, PodReporter
from tproxy.lab.probes import Prober
from tproxy.lab.process import run
from tproxy.lab.records import Records
from tproxy.lab.sandbox import Sandbox, cluster_resolv_conf, write_etc
from tproxy.lab.volumes import PodVolumes
from tproxy.netns.handle import Netns
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

_SOURCES = {"ConfigMap": CONFIGMAPS, "Secret": SECRETS}
FAMILY_ANNOTATION = "lab.tproxy.dev/ip-family"
"""`IPv4` or `IPv6`: the pod has an address of that family alone, as CNI plugins do it if they are asked to."""

_RETRY_SECONDS = 1.0
_NEWS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What a node gives to its pods. `working_directory` is where containers without a `workingDir` run."""

    layout: Layout
    node: Node
    netns: Netns
    store: Store
    records: Records
    addresses: PodAddresses
    working_directory: str


class PodRunner:
    """Runs one pod object until `stop`; its sandbox is made anew if it dies."""

    def __init__(self, context: NodeContext, pod: Object) -> None:
        self._context = context
        self._pod = pod
        metadata = pod["metadata"]
        self.uid: str = metadata["uid"]
        self._namespace: str = metadata["namespace"]
        self._name: str = metadata["name"]
        self._tasks = Tasks(f"lab-pod-{self._namespace}/{self._name}")
        self._sandbox: Sandbox | None = None
        self._host: int | None = None
        self._started_at = now()
        self._reporter = PodReporter()
        self._published: Object = {}
        self._trouble = ""
        self._ending = False
        self._volumes = PodVolumes(context.layout.volume_directory(self.uid), self._etc, self._pod, self._lookup)
        self._logs = context.layout.log_directory(self._namespace, self._name, self.uid)
        self._containers = [
            Container(
                spec,
                pod["spec"].get("restartPolicy", "Always"),
                float(pod["spec"].get("terminationGracePeriodSeconds", 30)),
                self._logs / f"{spec['name']}.log",
                self._lookup,
                self._publish,
            )
            for spec in pod["spec"]["containers"]
        ]

    @property
    def netns(self) -> Netns | None:
        """The network namespace of the running sandbox."""
        return self._sandbox.netns if self._sandbox is not None else None

    def start(self) -> None:
        """Begin to run it in the background."""
        self._tasks.start(self._run(), "run")

    async def stop(self, grace_seconds: float) -> None:
        """End all containers, then the sandbox and its network; forget the pod."""
        self._ending = True
        if grace_seconds:
            # In a cluster the end of a pod and the news of it race each other, and clients lose. A stage can wait.
            await asyncio.sleep(_NEWS_SECONDS)
        await asyncio.gather(*(container.stop(grace_seconds) for container in self._containers))
        await self._tasks.close()
        await self._drop_sandbox()
        self._context.records.set_pod(self.uid, None)
        self._volumes.remove()
        shutil.rmtree(self._etc, ignore_errors=True)
        shutil.rmtree(self._logs, ignore_errors=True)

    def kill(self) -> None:
        """Send SIGKILL to everything in it; `stop` is still needed."""
        self._ending = True
        cgroup.kill(self._group)

    def refresh_volumes(self) -> None:
        """A ConfigMap or Secret has changed."""
        if self._sandbox is not None:
            self._volumes.refresh()

    def cut_logs(self) -> None:
        """Bring the containers' logs back to their limit."""
        for path in self._logs.glob("*.log"):
            logs.cut(path)

    async def _run(self) -> None:
        while True:
            try:
                await self._make_sandbox()
            except (TproxyError, OSError) as error:
                self._trouble = str(error)
                log.warning("pod %s/%s has no sandbox: %s", self._namespace, self._name, error)
                self._publish()
                await self._drop_sandbox()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._trouble = ""
            self._publish()
            await self._run_containers()
            if self._ending:
                return
            log.warning("pod %s/%s lost its sandbox", self._namespace, self._name)
            await self._drop_sandbox()

    async def _run_containers(self) -> None:
        """Run the containers as long as the sandbox lives."""
        sandbox = self._sandbox
        assert sandbox is not None  # noqa: S101 - made just before
        pod = self._pod | {"status": self._status()}
        place = Place(
            sandbox,
            self._group,
            lambda execute: Prober(self._context.netns, self._addresses[0], execute),
            self._base_environment(),
            self._context.working_directory,
            self._volumes,
        )
        running = Tasks(f"lab-pod-{self._namespace}/{self._name}")
        try:
            for container in self._containers:
                if not container.finished:
                    running.start(container.run(place, pod), container.name)
            await sandbox.holder.wait()
        finally:
            await running.close()
        for container in self._containers:
            if not container.finished:
                container.lost()

    async def _make_sandbox(self) -> None:
        context, layout = self._context, self._context.layout
        hosts = []
        if self._host_network:
            netns = layout.netns(context.node.name)
        else:
            netns = layout.pod_netns(self.uid)
            self._host = context.addresses.take()
            hosts = [(address, self._name) for address in self._addresses]
            await network.create_netns([netns])
            network.configure(netns, forwarding=False)
        self._volumes.make()
        write_etc(self._etc, self._resolv_conf(), hosts)
        group = self._group / secrets.token_hex(32)
        group.mkdir(parents=True)
        wiring = [] if self._host is None else [self._wire(netns)]
        results = await asyncio.gather(
            Sandbox.start(netns, self._etc, self._name, group), *wiring, return_exceptions=True
        )
        if isinstance(results[0], Sandbox):
            self._sandbox = results[0]
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _wire(self, netns: str) -> None:
        context = self._context
        outside, inside = network.pod_links(context.layout, context.node, self.uid, self._addresses)
        await network.ip(context.layout.netns(context.node.name), outside)
        await network.ip(netns, inside)

    async def _drop_sandbox(self) -> None:
        """Remove whatever there is of the sandbox; tolerates that it is only partly there."""
        context, layout = self._context, self._context.layout
        if self._sandbox is not None:
            await self._sandbox.close()
            self._sandbox = None
        await asyncio.to_thread(cgroup.end, self._group)
        if self._host is not None:
            with contextlib.suppress(TproxyError):
                link = network.link_name(self.uid)
                await run("ip", "-n", layout.netns(context.node.name), "link", "del", link)
            with contextlib.suppress(TproxyError):
                await network.delete_netns([layout.pod_netns(self.uid)])
            context.addresses.give_back(self._host)
            self._host = None

    @property
    def _group(self) -> Path:
        return self._context.layout.pod_cgroup(self._context.node.name, self.uid)

    @property
    def _etc(self) -> Path:
        return self._context.layout.place_directory(f"pod-{self.uid}")

    @property
    def _host_network(self) -> bool:
        return bool(self._pod["spec"].get("hostNetwork"))

    @property
    def _addresses(self) -> Sequence[str]:
        if self._host_network:
            return self._context.node.addresses
        if self._host is None:
            return ()
        family = (self._pod["metadata"].get("annotations") or {}).get(FAMILY_ANNOTATION)
        both = self._context.node.pod_addresses(self._host)
        return [one for one in both if family is None or (":" in one) == (family == "IPv6")]

    def _resolv_conf(self) -> str:
        spec = self._pod["spec"]
        if spec.get("dnsPolicy") != "None":
            return cluster_resolv_conf(self._namespace, ip6=bool(self._addresses) and ":" in self._addresses[0])
        chosen = spec.get("dnsConfig") or {}
        lines = [f"nameserver {address}" for address in chosen.get("nameservers") or ()]
        return "\n".join([f"search {' '.join(chosen.get('searches') or ())}", *lines, ""])

    def _base_environment(self) -> Mapping[str, str]:
        # A lab that was started from a checkout which is not installed has its packages on this path.
        inherited = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return inherited | {
            "PATH": PATH,
            "HOME": "/root",
            "HOSTNAME": self._name,
            "LANG": "C.UTF-8",
            "PYTHON": sys.executable,
            "PYTHONUNBUFFERED": "1",
        }

    def _lookup(self, kind: str, name: str) -> Mapping[str, bytes] | None:
        try:
            return data_of(self._context.store.get(_SOURCES[kind], name, self._namespace))
        except NotFoundError:
            return None

    def _publish(self) -> None:
        """Tell the records, then the API, how the pod is."""
        status = self._status()
        self._context.records.set_pod(self.uid, self._record())
        if status == self._published:
            return
        self._published = status
        patch = {"metadata": {"uid": self.uid}, "status": status}
        with contextlib.suppress(NotFoundError, StaleError):
            self._context.store.patch(PODS, self._name, patch, self._namespace, "status")

    def _record(self) -> Mapping[str, Any]:
        context = self._context
        holder = self._sandbox.holder.pid if self._sandbox is not None else None
        containers = [
            {"name": container.name, "pid": container.process.pid if container.process else None}
            for container in self._containers
        ]
        netns = context.layout.netns(context.node.name) if self._host_network else context.layout.pod_netns(self.uid)
        return {
            "namespace": self._namespace,
            "name": self._name,
            "uid": self.uid,
            "node": context.node.name,
            "netns": netns,
            "addresses": list(self._addresses),
            "holder": holder,
            "pids": [pid for pid in (holder, *(container["pid"] for container in containers)) if pid],
            "containers": containers,
            "ready": self._is_ready(),
            "restarts": sum(container.restarts for container in self._containers),
            "cgroup": str(self._group),
        }

    def _is_ready(self) -> bool:
        return self._sandbox is not None and all(container.ready for container in self._containers)

    def _status(self) -> Object:
        facts = PodFacts(
            host_addresses=self._context.node.addresses,
            addresses=self._addresses,
            sandbox=self._sandbox is not None,
            trouble=self._trouble,
            started_at=self._started_at,
        )
        return self._reporter.status(facts, self._containers)
