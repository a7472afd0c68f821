"""An intercept of this laptop: what was asked for, and what the cluster last said about it."""

from dataclasses import dataclass

from tproxy.model.intercept import Intercept, InterceptPort
from tproxy.tunnel.proxy_protocol import Version
from tproxy_cli.daemon.state import SavedIntercept


@dataclass(frozen=True, slots=True)
class LocalApp:
    """A port that something on the laptop listens at: in the namespace of the run of that id, unless it is empty.

    `proxy_protocol` is how it is told of its clients, if it is.
    """

    port: int
    run: str = ""
    proxy_protocol: Version | None = None


@dataclass(slots=True)
class Held:
    """Its object has been created if `saved.uid` is not empty. `observed` is the newest object seen.

    `leaving`: we are about to delete it. `note` is for people, as is `files_trouble`: why the files of the container
    are not copied at present.
    """

    saved: SavedIntercept
    observed: Intercept | None = None
    leaving: bool = False
    note: str = ""
    files_trouble: str = ""

    @property
    def name(self) -> str:
        """The Intercept's name."""
        return self.saved.name

    def local_app(self, port: InterceptPort) -> LocalApp | None:
        """Where what comes to a port of the pod goes on the laptop."""
        laptop_port = next((one.laptop for one in self.saved.ports if one.pod == port), None)
        if laptop_port is None:
            return None
        return LocalApp(laptop_port, self.saved.run, self.saved.proxy_protocol)
