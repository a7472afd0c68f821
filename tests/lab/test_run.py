"""`tproxy run` end to end, as an ordinary user: names, TCP, UDP, IPv6 and much of it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.person import Person
from tproxy.kube.port import NAMESPACES, SERVICES

HERE = Path(__file__).parent

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: {name}
        command: [python, -m, tests.lab.anything]
        workingDir: {root}
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: http, containerPort: 8080}}, {{name: echo, containerPort: 9000, protocol: UDP}}]
        readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ipFamilyPolicy: PreferDualStack
  ports: [{{name: http, port: 80, targetPort: http}}, {{name: echo, port: 9000, protocol: UDP, targetPort: echo}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}-pods}}
spec:
  clusterIP: None
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080, targetPort: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}-six}}
spec:
  selector: {{app: {name}}}
  ipFamilies: [IPv6]
  ports: [{{name: http, port: 80, targetPort: 8086}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}-elsewhere}}
spec:
  type: ExternalName
  externalName: {name}.{namespace}.svc.cluster.local
---
"""


def manifests(name: str, namespace: str, replicas: int = 1) -> str:
    return MANIFESTS.format(name=name, namespace=namespace, replicas=replicas, root=HERE.parents[1])


@pytest.fixture(scope="module")
def person(lab: Any) -> Iterator[Person]:
    for name in ("outbound", "other"):
        lab.client.create(NAMESPACES, {"metadata": {"name": name}})
    lab.apply(manifests("web", "outbound", 2), "outbound")
    lab.apply(manifests("far", "other"), "other")
    one = Person(lab, "outbound")
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize(
    "name",
    ["web", "web.outbound", "web.outbound.svc", "web.outbound.svc.cluster.local", "web.outbound.svc.cluster.local."],
)
def test_a_service_by_every_form_of_its_name(person: Person, name: str) -> None:
    assert person.run("curl", "-sS", f"http://{name}/").stdout.startswith("web-")


def test_other_namespaces_headless_pods_and_external_names(person: Person) -> None:
    assert person.run("curl", "-sS", "http://far.other/").stdout.startswith("far-")
    pod = person.lab.pods("outbound", "web-")[0]
    label = pod["addresses"][0].replace(".", "-")
    assert person.run("curl", "-sS", f"http://{label}.web-pods:8080/").stdout.startswith(pod["name"])
    assert person.run("curl", "-sS", f"http://{pod['addresses'][0]}:8080/").stdout.startswith(pod["name"])
    assert person.run("curl", "-sS", "http://web-elsewhere/").stdout.startswith("web-")


def test_what_leaves_leaves_from_the_pod(person: Person) -> None:
    pod = person.lab.pods("other", "far-")[0]
    seen = person.run("curl", "-sS", "-4", "http://web.outbound/", options=["-n", "other", "--as", "deploy/far"]).stdout
    assert seen.split()[1].removeprefix("::ffff:") == pod["addresses"][0]


def test_ip6_by_name_and_by_address(person: Person) -> None:
    assert person.run("curl", "-sS", "http://web-six/").stdout.startswith("web-")
    pod = person.lab.pods("outbound", "web-")[0]
    assert person.run("curl", "-sSg", f"http://[{pod['addresses'][1]}]:8086/").stdout.startswith(pod["name"])


@pytest.mark.parametrize("by", ["+notcp", "+tcp"])
def test_dig(person: Person, by: str) -> None:
    def dig(*question: str) -> str:
        return str(person.run("dig", by, *question).stdout)

    address = person.lab.client.get(SERVICES, "web", "outbound")["spec"]["clusterIPs"]
    assert address[0] in dig("+short", "web.outbound.svc.cluster.local", "A")
    assert address[1] in dig("+short", "web.outbound.svc.cluster.local", "AAAA")
    assert "80 web.outbound.svc.cluster.local." in dig("+short", "_http._tcp.web.outbound.svc.cluster.local", "SRV")
    padded = dig("+edns=0", "+bufsize=1232", "web.outbound.svc.cluster.local")
    assert "EDNS: version: 0" in padded
    assert address[0] in padded
    missing = dig("nothing.outbound.svc.cluster.local")
    assert "status: NXDOMAIN" in missing
    assert "SOA" in missing
    # A name that is not the cluster's goes to the laptop's resolver, which in the lab knows none.
    assert "status: NXDOMAIN" in dig("example.com")


def test_datagrams(person: Person) -> None:
    for family, host in (("AF_INET", "web"), ("AF_INET6", "web")):
        code = f"""
import socket
address = socket.getaddrinfo("{host}", 9000, socket.{family}, socket.SOCK_DGRAM)[0][4]
s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
s.settimeout(10)
for size in (1, 1400, 9000):
    s.sendto(bytes(size), address)
    data, peer = s.recvfrom(65535)
    print(len(data), peer[:2] == address[:2])
s.connect(address)
s.send(b"connected")
print(s.recv(99).decode(), "True")"""
        assert person.python(code).split() == ["1", "True", "1400", "True", "9000", "True", "connected", "True"]


def test_a_large_download_arrives_as_it_was_sent(person: Person) -> None:
    size = 512 << 20
    code = f"""
import hashlib, urllib.request
with urllib.request.urlopen("http://web/bytes/{size}") as answer:
    total, length = hashlib.sha256(), 0
    while data := answer.read(1 << 20):
        total.update(data)
        length += len(data)
    print(length, total.hexdigest() == answer.headers["X-Sum"])"""
    assert person.python(code) == f"{size} True"


def test_five_hundred_connections_at_once(person: Person) -> None:
    code = """
import asyncio
async def one(started):
    reader, writer = await asyncio.open_connection("web", 80)
    await started.wait()
    writer.write(b"GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n")
    data = await reader.read()
    writer.close()
    return data.startswith(b"HTTP/1.1 200")
async def main():
    started = asyncio.Event()
    tasks = [asyncio.create_task(one(started)) for _ in range(500)]
    await asyncio.sleep(1)
    started.set()
    print(sum(await asyncio.gather(*tasks)))
asyncio.run(main())"""
    assert person.python(code) == "500"


def test_a_web_socket(person: Person) -> None:
    code = """
import asyncio, aiohttp
async def main():
    async with aiohttp.ClientSession() as session, session.ws_connect("http://web/ws") as ws:
        for _ in range(3):
            await ws.send_str("ab")
            print((await ws.receive_str()))
asyncio.run(main())"""
    assert person.python(code).split() == ["abab"] * 3


def test_refused_is_refused(person: Person) -> None:
    pod = person.lab.pods("outbound", "web-")[0]
    for host in pod["addresses"]:
        code = f"""
import socket
try: socket.create_connection(({host!r}, 4444))
except OSError as error: print(type(error).__name__)"""
        assert person.python(code) == "ConnectionRefusedError"


def test_a_denied_destination_names_the_policy(person: Person) -> None:
    done = person.run("curl", "-sS", "http://169.254.169.254/", options=["--also-proxy", "169.254.0.0/16"], check=False)
    assert done.returncode != 0
    assert "metadata" in done.stderr


def test_the_laptops_own_network_is_its_own(person: Person) -> None:
    # The lab's API server is in the laptop's network, and no pod may dial it.
    server = json.loads(person.tproxy("status", "-o", "json").stdout)["clusters"][0]["server"]
    assert "gitVersion" in person.run("curl", "-sS", f"{server}/version").stdout


@pytest.mark.parametrize(
    ("options", "words", "status", "said"),
    [
        (["--as", "deploy/none"], ["true"], 2, 'no Deployment "none" in namespace "outbound"'),
        (["-n", "empty"], ["true"], 3, "empty"),
        (["--as", "deploy/"], ["true"], 2, "deploy/"),
        (["--publish", "80:x"], ["true"], 2, "80:x"),
        (["--also-proxy", "10.0.0.0/99"], ["true"], 2, "10.0.0.0/99"),
        ([], ["no-such-command"], 127, "command not found: no-such-command"),
        ([], ["/etc/passwd"], 126, "cannot execute /etc/passwd"),
        (["--context", "nowhere"], ["true"], 3, "nowhere"),
    ],
)
def test_wrong_inputs(person: Person, options: list[str], words: list[str], status: int, said: str) -> None:
    done = person.run(*words, options=options, check=False)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


RESOLVING = {
    # Neither uses the C library's resolver, and neither can be preloaded.
    "go": """
package main

import ("io"; "net"; "os"; "strings")

func main() {
    _, srv, err := net.LookupSRV("http", "tcp", "web.outbound.svc.cluster.local")
    if err != nil { panic(err) }
    conn, err := net.Dial("tcp", "web:80")
    if err != nil { panic(err) }
    io.WriteString(conn, "GET / HTTP/1.0\\r\\nHost: web\\r\\n\\r\\n")
    text, _ := io.ReadAll(conn)
    _, body, _ := strings.Cut(string(text), "\\r\\n\\r\\n")
    os.Stdout.WriteString(strings.Repeat("1", len(srv)) + " " + body)
}
""",
    "musl": r"""
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(void) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *each;
    char text[4096], *body;
    int s = -1, count = 0;
    if (getaddrinfo("web", "80", &hints, &found)) return 1;
    for (each = found; each; each = each->ai_next) count++;
    s = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(s, found->ai_addr, found->ai_addrlen)) { perror("connect"); return 2; }
    write(s, "GET / HTTP/1.0\r\nHost: web\r\n\r\n", 29);
    for (int n, at = 0; (n = read(s, text + at, sizeof text - 1 - at)) > 0; text[at += n] = 0) ;
    if (!(body = strstr(text, "\r\n\r\n"))) return 3;
    printf("%d %s", count, body + 4);
}
""",
    "java": """
import java.net.*; import java.util.*;
class Ask {
    public static void main(String[] words) throws Exception {
        int count = InetAddress.getAllByName("web").length;
        var answer = new URL("http://web/").openStream();
        System.out.print(count + " " + new String(answer.readAllBytes()));
    }
}
""",
}


@pytest.fixture
def program(person: Person) -> Callable[[str], list[str]]:
    """Builds a program that asks for `web` by name, and gives its command line."""

    def build(language: str) -> list[str]:
        made = {"go": "ask.go", "musl": "ask.c", "java": "Ask.java"}[language]
        source = person.home / made
        source.write_text(RESOLVING[language])
        binary = str(person.home / f"ask-{language}")
        static = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
        match language:
            case "go":
                subprocess.run(["go", "build", "-o", binary, str(source)], check=True, env=static)
            case "musl":
                subprocess.run(["musl-gcc", "-static", "-O1", "-o", binary, str(source)], check=True)
            case "java":
                return ["java", str(source)]
        return [binary]

    return build


@pytest.mark.parametrize(("language", "needs"), [("go", "go"), ("musl", "musl-gcc"), ("java", "javac")])
def test_resolvers_of_other_languages(
    person: Person, program: Callable[[str], list[str]], language: str, needs: str
) -> None:
    if shutil.which(needs) is None:
        pytest.skip(f"no {needs} on this machine")
    count, pod, _ = person.run(*program(language)).stdout.split()
    assert int(count) >= 1
    assert pod.startswith("web-")
