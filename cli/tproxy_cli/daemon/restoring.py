"""Making a session anew after it has expired: the laptop was asleep or offline for longer than its ttl."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from tproxy.errors import TproxyError
from tproxy.kube.errors import AlreadyExistsError
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.objects import SessionObjects
from tproxy_cli.daemon.tunnels import Backoff

log = logging.getLogger(__name__)


async def make_anew(
    objects: SessionObjects, intercepts: Collection[Held], create: Callable[[Held], Awaitable[None]]
) -> None:
    """Create the Session, and by `create` its Intercepts, until all are there: the person still wants them."""
    name = objects.saved.name
    log.warning("the session had expired; making it anew", extra={"session": name})
    objects.forget_uid()
    for held in intercepts:
        held.saved, held.observed = replace(held.saved, uid=""), None
    backoff = Backoff()
    while not objects.saved.uid or any(not held.saved.uid for held in intercepts):
        try:
            if not objects.saved.uid:
                await objects.create_session()
            for held in [held for held in intercepts if not held.saved.uid]:
                await create(held)
                held.note = "made anew: the session had expired while the laptop was asleep or offline"
        except AlreadyExistsError as error:  # a predecessor, which the cluster is about to remove
            log.info("not made anew yet: %s", error.message, extra={"session": name})
            await asyncio.sleep(backoff.next())
        except TproxyError as error:
            log.warning("cannot make it anew yet: %s", error.message, extra={"session": name})
            await asyncio.sleep(backoff.next())
