"""One client's connection to a port with personal intercepts, and everything behind it."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from tproxy.http.exchange import Remedy, failure
from tproxy.http.h2.router import Http2
from tproxy.http.opening import Opening
from tproxy.http.port import APP, Choice, Matcher, Router, Upstream
from tproxy.http.raw import Raw
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason
from tproxy_node.flows import Flow
from tproxy_node.personal.ends import AppEnd, ClientEnd
from tproxy_node.personal.laptops import LaptopEnd

if TYPE_CHECKING:
    from tproxy_node.personal.ports import PersonalPorts

log = logging.getLogger(__name__)


class ClientHop:
    """A `Hop`."""

    now = staticmethod(time.monotonic)

    def __init__(self, ports: "PersonalPorts", transport: asyncio.Transport, flow: Flow) -> None:
        self.source = flow.client
        self.destination = destination = flow.destination
        self._flow = flow
        self._remember = flow.flows.request
        self._count = ports.tally(destination.port).record
        self.client = ClientEnd(self, transport)
        self._ports = ports
        self._timer: asyncio.TimerHandle | None = None
        self._held = 0
        self.matcher: Matcher = ports.matcher(destination.port)
        """As of now."""
        self.router: Router
        self.default: AppEnd | LaptopEnd

    def start(self) -> None:
        """Begin: the default upstream is opened, and the client listened to."""
        self.default = self._open_default()
        self.become(Opening(self, Http2))

    def open(self, choice: Choice, fresh: bool = False) -> Upstream | None:
        """See `Hop`."""
        if choice is APP:
            return self._ports.open_app(self)
        return self._ports.open_laptop(self, choice.session, choice.intercept, pooled=not fresh)

    def reopen(self) -> Upstream:
        """See `Hop`."""
        self.default = self._open_default()
        if isinstance(self.default, AppEnd):
            self.default.listen(self.router)
        return self.default

    def _open_default(self) -> AppEnd | LaptopEnd:
        route = self._ports.route(self.destination.port)
        if route is not None and route.intercept:
            laptop = self._ports.open_laptop(self, route.session, route.intercept, pooled=False)
            if laptop is not None:
                laptop.follow()
                return laptop
        return self._ports.open_app(self)

    def stand_in(self, reason: ResetReason, detail: str) -> Upstream | bytes | None:
        """See `Hop`."""
        laptop, route = self.default, self._ports.route(self.destination.port)
        if not isinstance(laptop, LaptopEnd) or laptop.unanswered is None or route is None:
            return None
        what = laptop.unanswered.remedy(route.on_disconnect)
        if what is Remedy.APP:
            other = self.reopen()
            if data := laptop.unanswered.data:
                other.write(data)
            return other
        if what is Remedy.ERROR:
            head_only = laptop.unanswered.methods == {b"HEAD"}
            return failure(route.choice, reason, detail).answer(head_only, last=True)
        return None

    def splice(self, upstream: Upstream) -> None:
        """See `Hop`."""
        self.wake(None)
        if upstream is not self.default:
            self.default.close()
        eof = isinstance(upstream, AppEnd | LaptopEnd) and upstream.eof
        self.become(Raw(self, upstream, self.client.eof, eof))

    def become(self, router: Router) -> None:
        """See `Hop`."""
        self.router = router
        self.client.listen(router)
        if isinstance(self.default, AppEnd):
            self.default.listen(router)

    def record(self, outcome: Outcome, choice: Choice | None, status: int, seconds: float) -> None:
        """See `Hop`."""
        self._count(outcome, choice, status, seconds)
        self._remember(self._flow, outcome, choice, status, seconds)

    def wake(self, seconds: float | None) -> None:
        """See `Hop`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._woken)

    def held(self, size: int) -> bool:
        """See `Hop`."""
        change, self._held = size - self._held, size
        return self._ports.hold(change)

    def _woken(self) -> None:
        self._timer = None
        self.router.timeout()

    def ended(self) -> None:
        """The client's connection is gone."""
        self.wake(None)
        self.held(0)
        self._flow.over("closed")
        self._ports.left(self)

    def app_ended(self, app: AppEnd) -> None:
        """A connection to the app is gone."""
        self._ports.app_ended(app)
