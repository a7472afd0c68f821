"""How controllers run: look at everything, put it right, wait for a change, look again.

A controller is a plain function of the store, so a pass can be tested without a loop. A lab holds few objects; looking
at all of them is cheaper than remembering which ones changed, and it forgets nothing.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tproxy.kube.port import DEPLOYMENTS, ENDPOINTSLICES, NODES, PODS, SERVICES, Resource
from tproxy.lab.api.store import Store
from tproxy.lab.controllers import deployments, endpointslices, garbage, scheduler
from tproxy.tasks import Tasks

_SETTLE_SECONDS = 0.01
"""Changes come in bursts; one pass then serves them all."""


@dataclass(frozen=True, slots=True)
class Controller:
    """A pass over the store, and the resources whose changes call for another one."""

    name: str
    reconcile: Callable[[Store], None]
    watches: Collection[Resource]


def controllers(store: Store) -> list[Controller]:
    """All controllers of the lab."""
    return [
        Controller("deployments", deployments.reconcile, (DEPLOYMENTS, PODS)),
        Controller("scheduler", scheduler.reconcile, (PODS, NODES)),
        Controller("endpointslices", endpointslices.reconcile, (SERVICES, PODS, ENDPOINTSLICES)),
        Controller("garbage", garbage.reconcile, [kind.resource for kind in store.kinds]),
    ]


def start(store: Store, tasks: Tasks) -> None:
    """Run every controller in the background until `tasks` are closed."""
    for controller in controllers(store):
        tasks.start(run(store, controller), controller.name)


async def run(store: Store, controller: Controller) -> None:
    """Run one controller for ever."""
    while True:
        version = store.version
        controller.reconcile(store)
        await store.wait(controller.watches, version)
        await asyncio.sleep(_SETTLE_SECONDS)
