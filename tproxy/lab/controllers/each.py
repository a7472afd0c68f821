"""One object that cannot be dealt with must not keep a controller from the others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tproxy.errors import TproxyError
from tproxy.kube.port import Object

log = logging.getLogger(__name__)


@contextmanager
def alone(obj: Object) -> Iterator[None]:
    """Deal with `obj` inside; what is refused there is logged, and the next pass tries again."""
    try:
        yield
    except TproxyError as error:
        metadata = obj["metadata"]
        where = f"{obj['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
        log.warning("%s cannot be reconciled: %s", where, error.message)
