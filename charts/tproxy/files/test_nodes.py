"""Ask every address of a Service whether the node daemon there is ready: HOST PORT VERSION. For `helm test`."""

import http.client
import socket
import sys
import time

SECONDS = 60.0


def ask(address: str, port: int, version: str) -> str:
    """What is wrong with one node daemon; empty if nothing is."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read(200).decode(errors="replace").strip()
        if answer.status != 200:
            return f"not ready: {said}"
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode(errors="replace")
        if f'version="{version}"' not in metrics:
            return f"not of version {version}"
        return ""
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def look(host: str, port: int, version: str) -> tuple[list[str], str]:
    """The addresses, and the first thing that is wrong."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return [], f"{host}: {error}"
    addresses = sorted({str(entry[4][0]) for entry in found})
    wrong = [f"{address}: {trouble}" for address in addresses if (trouble := ask(address, port, version))]
    return addresses, "\n".join(wrong)


def main(host: str, port: int, version: str) -> str:
    """Returns what is wrong after a minute."""
    until = time.monotonic() + SECONDS
    while True:
        addresses, wrong = look(host, port, version)
        if not wrong:
            print(f"{len(addresses)} node daemons are ready, of version {version}: {', '.join(addresses)}")
            return ""
        if time.monotonic() > until:
            return wrong
        time.sleep(1)


if __name__ == "__main__":
    # An empty text would be an error as well.
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]) or 0)
