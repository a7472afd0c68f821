"""psql on the laptop and a real PostgreSQL in a pod: through `run`, as an ordinary user, and through `connect`."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.connected import Connected
from tests.lab.person import Person
from tests.lab.postgres import PASSWORD
from tproxy.kube.port import NAMESPACES

SERVER = Path(__file__).with_name("postgres.py")
NAMESPACE = "records"
MANIFESTS = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: records}}
spec:
  selector: {{matchLabels: {{app: records}}}}
  template:
    metadata: {{labels: {{app: records}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: records
        command: [python, {SERVER}, /srv/records]
        volumeMounts: [{{name: data, mountPath: /srv/records}}]
        readinessProbe: {{tcpSocket: {{port: 5432}}, periodSeconds: 1}}
      volumes: [{{name: data, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: records}}
spec:
  selector: {{app: records}}
  ipFamilyPolicy: PreferDualStack
  ports: [{{port: 5432}}]
"""
ROWS = 400_000
Psql = Callable[..., str]
"""What psql prints on the laptop, given words; with `shell`, what a pipe does that begins with it."""


@pytest.fixture(scope="module")
def database(lab: Any) -> Iterator[Any]:
    lab.client.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    lab.apply(MANIFESTS, NAMESPACE)
    try:
        yield lab
    finally:
        lab.client.delete(NAMESPACES, NAMESPACE)


@pytest.fixture(scope="module", params=["run", "connect"])
def psql(database: Any, request: pytest.FixtureRequest) -> Iterator[Psql]:
    def line(words: tuple[str, ...], pipe: str) -> tuple[str, ...]:
        script = f'PGPASSWORD={PASSWORD} psql -h records -U postgres -v ON_ERROR_STOP=1 -At "$@" {pipe}'
        return ("sh", "-c", script, "sh", *words)

    if request.param == "run":
        person = Person(database, NAMESPACE)
        try:
            yield lambda *words, pipe="": str(person.run(*line(words, pipe)).stdout)
        finally:
            person.close()
    else:
        one = Connected(database, NAMESPACE)
        try:
            one.connect()
            yield lambda *words, pipe="": one.run(*line(words, pipe))
        finally:
            one.tproxy("disconnect", check=False)
            database.wait(one.as_before, "nothing left")
            one.close()


def test_it_is_the_pods(database: Any, psql: Psql) -> None:
    pod = database.ready_pod(NAMESPACE, "records-")
    assert psql("-c", "select host(inet_server_addr())").strip() in pod["addresses"]


def test_what_goes_in_comes_out(psql: Psql) -> None:
    psql("-c", "drop table if exists rows; create table rows (n int, text text)")
    rows = "".join(f"{number}\trow {number * 7919}\n" for number in range(ROWS))
    generated = "select g, 'row ' || (g::bigint * 7919) from generate_series(0, 399999) g"
    psql("-c", f"insert into rows {generated}")
    fetched = psql("-c", "copy (select * from rows order by n) to stdout", pipe="| sha256sum")
    assert fetched.split()[0] == hashlib.sha256(rows.encode()).hexdigest()
    sent = psql(
        "-c",
        f"copy ({generated}) to stdout",
        pipe=f"| PGPASSWORD={PASSWORD} psql -h records -U postgres -c 'copy rows from stdin'",
    )
    assert sent.strip() == f"COPY {ROWS}"
    assert (
        psql("-c", "select count(*), count(distinct n), sum(n) from rows").strip()
        == f"{2 * ROWS}|{ROWS}|{(ROWS - 1) * ROWS}"
    )


def test_a_transaction_and_a_notification(psql: Psql) -> None:
    script = (
        "drop table if exists sums",
        "create table sums (n int)",
        "begin",
        "insert into sums values (1)",
        "rollback",
        "select count(*) from sums",
        "listen told",
        "notify told, 'something'",
        "select 'end'",
    )
    said = psql(*(word for statement in script for word in ("-c", statement)))
    assert "0\nLISTEN\nNOTIFY\n" in said
    assert 'Asynchronous notification "told" with payload "something"' in said
