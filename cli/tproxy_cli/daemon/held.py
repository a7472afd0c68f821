"""An intercept of this laptop: what was asked for, and what the cluster last said about it."""

from dataclasses import dataclass

from tproxy.model.intercept import Intercept
from tproxy_cli.daemon.state import SavedIntercept


@dataclass(frozen=True, slots=True)
class LocalApp:
    """A port that something on the laptop listens at: in the namespace of the run of that id, unless it is empty."""

    port: int
    run: str = ""


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

    def local_app(self, pod_port: int) -> LocalApp | None:
        """Where connections to `pod_port` go on the laptop."""
        return next(
            (LocalApp(port.laptop, self.saved.run) for port in self.saved.ports if port.pod.port == pod_port), None
        )
