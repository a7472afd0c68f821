"""An intercept of this laptop: what was asked for, and what the cluster last said about it."""

from dataclasses import dataclass

from tproxy.model.intercept import Intercept
from tproxy_cli.daemon.state import SavedIntercept


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

    def laptop_port(self, pod_port: int) -> int | None:
        """Where connections to `pod_port` go on the laptop."""
        return next((port.laptop for port in self.saved.ports if port.pod.port == pod_port), None)
