"""A pod's resolver: DNS messages to the servers its resolv.conf names, from inside its network.

Queries go out on a few connected UDP sockets under random IDs. A socket is replaced after some seconds, so that its
port cannot be learned, and so that a Service's address may lead to another DNS server.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from tproxy.connecting import connect
from tproxy.dns import wire
from tproxy.model.dial_policy import IPAddress, plain
from tproxy.model.flow import ResetReason
from tproxy.model.resolv_conf import ResolvConf, candidates
from tproxy_node.dial.failure import DialError

PORT = 53
FIRST_SECONDS = 2.0
"""How long the first attempt waits before the next server is asked: a datagram may be lost."""
PORT_SECONDS = 10.0
PORT_QUERIES = 1000
RETRY_RCODES = (wire.SERVFAIL, wire.NOTIMP, wire.REFUSED)
PAYLOAD = 1232
"""What is asked for by EDNS: no fragments on any path (DNS flag day 2020)."""

READS_AT_ONCE = 64

Told = Callable[[bytes | OSError], None]
"""Gets an answer, or why there is none."""

MakeSocket = Callable[[socket.AddressFamily, socket.SocketKind], socket.socket]


class Resolver:
    """Asks in the order and with the patience that `configuration` gives."""

    def __init__(self, make: MakeSocket, configuration: ResolvConf, chance: random.Random) -> None:
        self._make = make
        self._configuration = configuration
        self._chance = chance
        self._ports: dict[str, _Port] = {}
        self._turn = 0
        self._closed = False

    def attempt(self, message: bytes, end: int, told: Callable[[bytes | OSError | None], None]) -> None:
        """Ask the first server by UDP. `told` gets what `query` is to go on with: None if nothing was tried.

        `message` asks one question, which ends at `end`.
        """
        configuration = self._configuration
        if configuration.use_tcp or configuration.rotate or not configuration.nameservers:
            told(None)
            return
        try:
            port = self._port(configuration.nameservers[0])
            port.ask(message, end, min(FIRST_SECONDS, configuration.timeout), told)
        except OSError as error:
            told(error)

    @staticmethod
    def good(answer: bytes) -> bool:
        """Whether it is what the program is to have: nobody else need be asked."""
        return not wire.truncated(answer) and wire.rcode(answer) not in RETRY_RCODES

    async def query(self, message: bytes, first: bytes | OSError | None = None) -> bytes:
        """The answer to `message`, with its ID; `first` is what the first attempt has come to. Raises `DialError`."""
        configuration = self._configuration
        servers = list(configuration.nameservers)
        if not servers:
            raise DialError(ResetReason.UNREACHABLE, "the pod's resolv.conf names no server")
        if configuration.rotate:
            self._turn = (self._turn + 1) % len(servers)
            servers = servers[self._turn :] + servers[: self._turn]
        failure: OSError = TimeoutError()
        bad: bytes | None = None
        for attempt in range(configuration.attempts):
            seconds = configuration.timeout if attempt else min(FIRST_SECONDS, configuration.timeout)
            for server in servers:
                known, first = first, None
                try:
                    async with asyncio.timeout(seconds):
                        answer = await self._ask(server, message, known)
                except OSError as error:
                    failure = error
                    continue
                if wire.rcode(answer) not in RETRY_RCODES:
                    return answer
                bad = bad or answer
            if bad is not None:
                return bad
        reason = ResetReason.TIMED_OUT if isinstance(failure, TimeoutError) else ResetReason.REFUSED
        raise DialError(reason, f"the pod's resolver does not answer: {failure.strerror or 'timed out'}")

    async def addresses(self, name: str) -> list[IPAddress]:
        """What `name` means to the pod, by its search list. Raises `DialError`."""
        failure: DialError | None = None
        for full in candidates(name, self._configuration):
            try:
                found = await asyncio.gather(*(self._look_up(full, kind) for kind in (wire.AAAA, wire.A)))
            except DialError as error:
                failure = failure or error
                continue
            if addresses := [address for each in found for address in each]:
                return addresses
        raise failure or DialError(ResetReason.NO_SUCH_HOST, f"no such host: {name[:100]}")

    async def _look_up(self, name: str, kind: int) -> list[IPAddress]:
        try:
            query = wire.make_query(name, kind, payload=PAYLOAD)
            answer = await self.query(query)
            found = wire.addresses(answer)
        except wire.MalformedError as error:
            raise DialError(ResetReason.NO_SUCH_HOST, f"cannot look up {name[:100]}: {error}") from error
        if (code := wire.rcode(answer)) not in (wire.NOERROR, wire.NXDOMAIN):
            raise DialError(ResetReason.NO_SUCH_HOST, f"the pod's resolver says error {code} to {name[:100]}")
        return [address for text, _ in found if (address := plain(text)) is not None]

    async def _ask(self, server: str, message: bytes, known: bytes | OSError | None) -> bytes:
        """What `server` says, by TCP where that must be; `known` is what it has said by UDP."""
        if isinstance(known, OSError):
            raise known
        if not self._configuration.use_tcp:
            answer = known or await self._by_udp(server, message)
            if not wire.truncated(answer):
                return answer
        return await self._ask_by_tcp(server, message)

    async def _by_udp(self, server: str, message: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def told(answer: bytes | OSError) -> None:
            if not future.done():
                future.set_exception(answer) if isinstance(answer, OSError) else future.set_result(answer)

        port = self._port(server)
        query = port.ask(message, wire.question(message).end, self._configuration.timeout, told)
        try:
            return await future
        finally:
            port.forget(query)

    def _port(self, server: str) -> "_Port":
        if self._closed:
            raise ConnectionAbortedError
        port = self._ports.get(server)
        if port is None or port.worn:
            if port is not None:
                port.retire()
            port = self._ports[server] = _Port(_connected(self._make, server, socket.SOCK_DGRAM), self._chance)
        return port

    async def _ask_by_tcp(self, server: str, message: bytes) -> bytes:
        family, address = _address(server)
        sock = self._make(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await connect(sock, address)
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(struct.pack("!H", len(message)) + message)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the resolver closed the connection") from error
        finally:
            writer.transport.abort()
        if not _answers(message, wire.question(message).end, answer):
            raise ConnectionResetError("the resolver answered something else")
        return message[:2] + answer[2:]

    def close(self) -> None:
        """Ask no more; who waits is told."""
        self._closed = True
        for port in self._ports.values():
            port.close(ConnectionAbortedError())
        self._ports.clear()


@dataclass(frozen=True, slots=True)
class _Query:
    """One that is under way, as `number`."""

    number: int
    message: bytes
    end: int
    told: Told
    timer: asyncio.TimerHandle


class _Port:
    """One UDP socket connected to one server, and the queries it waits for answers to."""

    def __init__(self, sock: socket.socket, chance: random.Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._chance = chance
        self._waiting: dict[int, _Query] = {}
        self._made = self._loop.time()
        self._asked = 0
        self._retired = False
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def worn(self) -> bool:
        """Whether it is time for another one."""
        return self._asked >= PORT_QUERIES or self._loop.time() - self._made > PORT_SECONDS or self._sock.fileno() < 0

    def ask(self, message: bytes, end: int, seconds: float, told: Told) -> _Query:
        """Send `message`, whose question ends at `end`. `told` is called once, later, unless what is returned is
        forgotten. Raises OSError."""
        self._asked += 1
        number = self._chance.getrandbits(16)
        while number in self._waiting:
            number = self._chance.getrandbits(16)
        self._sock.send(number.to_bytes(2, "big") + message[2:])
        timer = self._loop.call_later(seconds, self._late, number)
        query = self._waiting[number] = _Query(number, message, end, told, timer)
        return query

    def forget(self, query: _Query) -> None:
        """Nobody waits for that answer any more. Idempotent."""
        if self._waiting.get(query.number) is query:
            del self._waiting[query.number]
            query.timer.cancel()
            self._rest()

    def _late(self, number: int) -> None:
        query = self._waiting.pop(number)
        self._rest()
        query.told(TimeoutError())

    def _rest(self) -> None:
        if self._retired and not self._waiting:
            self.close(ConnectionAbortedError())

    def retire(self) -> None:
        """Take no more queries; close when those under way are over."""
        self._retired = True
        self._rest()

    def _readable(self) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                answer = self._sock.recv(wire.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError as error:  # ICMP said that nobody is there
                self.close(error)
                return
            number = int.from_bytes(answer[:2], "big")
            query = self._waiting.get(number)
            if query is not None and _answers(query.message, query.end, answer):
                self.forget(query)
                query.told(query.message[:2] + answer[2:])
                if self._sock.fileno() < 0:
                    return

    def close(self, error: OSError) -> None:
        """Everybody who waits gets `error`. Idempotent."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        waiting, self._waiting = self._waiting, {}
        for query in waiting.values():
            query.timer.cancel()
            query.told(error)


def _answers(message: bytes, end: int, answer: bytes) -> bool:
    """Whether `answer` is one to the question in `message`, which ends at `end`."""
    if len(answer) < wire.HEADER or wire.is_query(answer):
        return False
    if answer[4:6] == b"\0\0":
        return wire.rcode(answer) != wire.NOERROR  # who cannot parse the question need not repeat it
    return wire.same_question(message, end, answer)


def _address(server: str) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    if ":" not in server:
        return socket.AF_INET, (server, PORT)
    host, _, zone = server.partition("%")
    return socket.AF_INET6, (host, PORT, 0, int(zone) if zone.isdecimal() else 0)


def _connected(make: MakeSocket, server: str, kind: socket.SocketKind) -> socket.socket:
    family, address = _address(server)
    sock = make(family, kind)
    try:
        sock.setblocking(False)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
