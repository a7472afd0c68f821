"""One attachment per namespace: the newest takes the place of an older one of ours.

A daemon may start while its predecessor still holds its links. The kernel runs both programs and ours overrules the
older one's choice of listener, but cannot take a choice back: our own connection to the app, exempt for us, would be
steered by the older program. So the older link is detached, after ours is in place. Its listener stays open, what it
has in hand stays with it, and its holder's own detach then finds nothing to do.
"""

import logging
import os
from collections.abc import Container

from tproxy.netns.handle import Netns
from tproxy.steer import libbpf

log = logging.getLogger(__name__)


def take_over(netns: Netns, link: libbpf.Link, programs: Container[str]) -> int:
    """Detach every other link of our `programs` in `netns` and say how many there were. Raises OSError."""
    if len(libbpf.programs_attached(netns.fileno(), libbpf.ATTACH_SK_LOOKUP)) < 2:
        return 0
    mine = link.info().id
    detached = 0
    for number in libbpf.link_ids():
        if number == mine:
            continue
        try:
            fd = libbpf.open_link(number)
        except FileNotFoundError:
            continue  # it went away meanwhile
        try:
            if _is_ours(libbpf.link_info(fd), netns, programs):
                libbpf.detach_link(fd)
                detached += 1
        finally:
            os.close(fd)
    if detached:
        log.warning("took over from an older attachment", extra={"links": detached, "netns": netns.id.inode})
    return detached


def _is_ours(info: libbpf.LinkInfo, netns: Netns, programs: Container[str]) -> bool:
    return (
        info.type == libbpf.LINK_TYPE_NETNS
        and info.netns == netns.id.inode
        and info.attach_type == libbpf.ATTACH_SK_LOOKUP
        and libbpf.program_name(info.program) in programs
    )
