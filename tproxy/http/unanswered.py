"""What the client of a connection is still waiting for, where everything goes to one laptop and nobody looks at it.

What is plain is told at a glance (`tproxy.http.plain`), other HTTP/1 is followed message by message until nothing is
under way (`tproxy.http.boundary`); of anything else nobody can say.
"""

from tproxy.http.boundary import Exchanges
from tproxy.http.exchange import MAX_KEPT, SAFE, Remedy
from tproxy.http.framing import StrangeError
from tproxy.http.plain import PlainAnswers, PlainMessages
from tproxy.http.port import Buffer
from tproxy.http.undecided import may_begin_request
from tproxy.model.intercept import OnDisconnect

_NOBODYS: frozenset[bytes] = frozenset()


class Unanswered:
    """Follows a connection from its beginning. `lost` for good: what is spoken there is not HTTP/1."""

    def __init__(self) -> None:
        self.lost = False
        self._plain = PlainMessages()
        self._answers = PlainAnswers()
        self._exchanges: Exchanges | None = None
        self._pieces: list[bytes] = []  # what was asked since nothing was under way
        self._size = 0
        self._begun = False  # that has a request line
        self._started = False  # a part of an answer has come

    def asked(self, data: bytes) -> None:
        """The client has sent this."""
        if self.lost:
            return
        if self._size == 0 and self._plain.request(data, _NOBODYS):
            self._keep(data)
            return
        if self._exchanges is None and self._started:
            self._lose()  # more requests than one, of which nobody knows how far they are
            return
        exchanges = self._follow()
        self._keep(data)
        if not (self._begun or self._begins()):
            self._lose()
            return
        exchanges.requested(data)
        self._look(exchanges)

    def answered(self, data: Buffer) -> None:
        """The laptop has sent this."""
        if self.lost:
            return
        self._started = True
        exchanges = self._exchanges
        if exchanges is not None:
            exchanges.answered(bytes(data))
            self._look(exchanges)
        elif self._size == 0:
            self._lose()  # a server that speaks first
        else:
            try:
                if self._answers.feed(data):
                    self._forget()
            except StrangeError:
                self._lose()

    def _begins(self) -> bool:
        """Whether what was asked is, or may become, a request as far as it has come."""
        data = self.data
        self._begun = b"\n" in data
        return may_begin_request(data)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_KEPT:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def _follow(self) -> Exchanges:
        if self._exchanges is None:
            self._exchanges = Exchanges()
            for piece in self._pieces:
                self._exchanges.requested(piece)
        return self._exchanges

    def _look(self, exchanges: Exchanges) -> None:
        if exchanges.lost:
            self._lose()
        elif exchanges.between:
            self._forget()

    def _lose(self) -> None:
        self.lost = True
        self._forget()

    def _forget(self) -> None:
        self._exchanges = None
        self._pieces.clear()
        self._size = 0
        self._begun = False
        self._started = False

    @property
    def data(self) -> bytes:
        """What another one has to be told to answer in the laptop's stead."""
        return b"".join(self._pieces)

    @property
    def methods(self) -> frozenset[bytes]:
        """Of the requests under way whose heads have come."""
        return frozenset(self._follow().asked) if self._size else frozenset()

    def remedy(self, on_disconnect: OnDisconnect) -> Remedy | None:
        """What to do now that the laptop is gone; None: nothing can be done, but to let the client see it.

        With nothing under way the app can have the connection, of whatever may follow on it.
        """
        if self.lost or self._started:
            return None
        methods = self.methods
        if on_disconnect == "fallback" and self._size <= MAX_KEPT and methods <= SAFE:
            return Remedy.APP
        return Remedy.ERROR if methods else None
