"""`leave --force`: others' intercepts end for those whom the cluster lets delete them, and for nobody else."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.cli_daemon.harness import staged, until
from tproxy.errors import ConflictError, DeniedError, InvalidError
from tproxy.kube.port import INTERCEPTS


def test_somebody_elses_intercept_ends_and_the_port_is_free(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            ann, bob = stage.laptop("ann"), stage.laptop("bob")
            name = (await ann.intercept("web"))["name"]
            with pytest.raises(ConflictError) as taken:
                await bob.intercept("web")
            assert f"`tproxy leave --force {name}`" in taken.value.hint
            left = await bob.leave(name, force=True)
            assert left["left"] == [{"name": name, "namespace": "shop", "target": "Deployment/web", "user": "ann"}]
            await bob.intercept("web")
            await until(lambda: ann.engine.status()[0]["intercepts"][0]["state"] == "Lost", "the news")

    asyncio.run(run())


def test_names_of_workloads_are_not_enough(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            ann, bob = stage.laptop("ann"), stage.laptop("bob")
            name = (await ann.intercept("web"))["name"]
            with pytest.raises(InvalidError) as refused:
                await bob.leave("web", force=True)
            assert f"`{name}` of ann" in refused.value.hint
            with pytest.raises(InvalidError):
                await bob.leave(name, "nothing-of-that-name", force=True)
            assert stage.store.list(INTERCEPTS), "unknown names are found before anything is ended"

    asyncio.run(run())


def test_without_the_right_it_is_said_whose_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            name = (await stage.laptop("ann").intercept("web"))["name"]
            with pytest.raises(DeniedError) as denied:
                await stage.laptop("viewer").leave(name, force=True)
            assert f"{name} is ann on " in denied.value.message
            assert "you may not delete intercepts.tproxy.dev" in denied.value.message
            assert f"`tproxy leave {name}`" in denied.value.hint
            assert stage.store.list(INTERCEPTS)

    asyncio.run(run())


def test_ones_own_is_left_in_good_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            ann = stage.laptop("ann")
            name = (await ann.intercept("web"))["name"]
            assert [one["name"] for one in (await ann.leave(name, force=True))["left"]] == [name]
            assert not stage.store.list(INTERCEPTS)
            assert ann.engine.idle

    asyncio.run(run())
