"""Which backend steers on this machine."""

import logging
from collections.abc import Callable, Mapping

from tproxy.errors import DeniedError, TproxyError
from tproxy.steer import iptables, sk_lookup
from tproxy.steer.port import Steering

log = logging.getLogger(__name__)

AUTO = "auto"
_BACKENDS: Mapping[str, Callable[[], Steering]] = {sk_lookup.NAME: sk_lookup.SkLookup, iptables.NAME: iptables.Tproxy}
CHOICES = (AUTO, *_BACKENDS)


def open_steering(choice: str = AUTO) -> Steering:
    """The backend named by `choice`; `auto` is sk_lookup, or TPROXY rules where that cannot be had.

    Raises TproxyError saying what is missing.
    """
    if choice != AUTO:
        return _BACKENDS[choice]()
    try:
        return sk_lookup.SkLookup()
    except DeniedError:
        raise  # rules need the same rights
    except TproxyError as error:
        log.warning("%s: steering by iptables rules instead", error.message)
        missing = error
    try:
        return iptables.Tproxy()
    except TproxyError as error:
        raise TproxyError(f"{missing.message}; and {error.message}", f"{missing.hint}; or {error.hint}") from error
