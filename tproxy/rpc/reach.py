"""Whether a node daemon answers at its direct address, and shows the certificate that it published.

An attempt that failed says little that helps a person; this says what is wrong and what to do about it.
"""

import asyncio
import contextlib
import os
import ssl
import time

from tproxy.errors import ClusterError, InvalidError
from tproxy.model.direct import SERVER_NAME, DirectWay

SECONDS = 5.0
OTHER_WAY = "`--transport port-forward` goes through the API server instead"


class UnreachableError(ClusterError):
    """Somebody has to do something before there can be a direct connection."""


async def reach(way: DirectWay, node: str, seconds: float = SECONDS) -> float:
    """Shake hands with the daemon on `node`; the seconds that took. Raises `UnreachableError`."""
    began = time.monotonic()
    what = f"the node daemon on {node} at {way}"
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(
                way.host, way.port, ssl=trusting(way.certificate), server_hostname=SERVER_NAME
            )
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except TimeoutError as error:
        raise UnreachableError(
            f"{what} does not answer within {seconds:g} s: a firewall may be in between", OTHER_WAY
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise _other(what) from error
    except (ssl.SSLError, ConnectionResetError, asyncio.IncompleteReadError) as error:
        raise UnreachableError(
            f"{what} does not speak TLS: something else listens there, or is in between", OTHER_WAY
        ) from error
    except OSError as error:
        raise UnreachableError(f"cannot reach {what}: {_reason(error)}", OTHER_WAY) from error
    if shown != way.certificate:
        raise _other(what)
    return time.monotonic() - began


def trusting(certificate: bytes) -> ssl.SSLContext:
    """A client's context that accepts this certificate (DER) and no other. Raises `InvalidError` if it is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=certificate)
    except ssl.SSLError as error:
        raise InvalidError("the node daemon's pod shows something that is no certificate") from error
    return context


def _other(what: str) -> UnreachableError:
    return UnreachableError(
        f"{what} shows another certificate than the one it published: somebody may be in between",
        f"see whether the address leads to that node; {OTHER_WAY}",
    )


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else "its name cannot be resolved"
