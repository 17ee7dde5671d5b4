"""Courier's own lists, asked of a stand-in over HTTP."""

from collections.abc import AsyncIterator

import pytest

from forwarder.clock import SystemClock
from forwarder.courier.catalogue import Catalogue, Known, Listed
from forwarder.courier.client import CourierClient
from forwarder.transport import AiohttpTransport
from stand_ins.behaviour import LOGIN_PAGE
from stand_ins.courier_api import CourierApi
from stand_ins.courier_state import Known as Workspace

_WAIT_S = 30.0


@pytest.fixture
async def courier() -> AsyncIterator[CourierApi]:
    """A workspace with something of every kind, more of one than a page holds."""
    many = {f"flow-{n}" for n in range(100)}
    known = Workspace(automations=many, journeys={"welcome"}, templates={"nt_1"}, lists={"vips"})
    async with CourierApi(api_keys=["ck"], known=known) as api:
        yield api


async def asked(url: str, *, key: str = "ck", wait_s: float = _WAIT_S) -> Known:
    """Ask once."""
    clock = SystemClock()
    async with AiohttpTransport(clock=clock, blip_max_s=0) as transport:
        catalogue = Catalogue(CourierClient(transport, base_url=url, api_key=key, clock=clock), clock)
        known = await catalogue.known(wait_s=wait_s)
        await catalogue.close()
        return known


async def test_every_page_of_every_list_is_read(courier: CourierApi) -> None:
    """Ids and names of all four kinds are known, whatever form their listing has."""
    known = await asked(courier.url)
    assert known.problem == ""
    assert len(known.kinds["automation"].names) == 100
    assert known.kinds["journey"].names == {"welcome": "The welcome"}
    assert known.kinds["template"].names == {"nt_1": "The nt_1"}
    assert known.kinds["list"].names == {"vips": "The vips"}


async def test_what_speaks_against_a_target(courier: CourierApi) -> None:
    """An id that is not listed, or listed as something else, is doubted; one that is listed is not."""
    known = await asked(courier.url)
    assert known.doubt("automation", "flow-99") == ""
    assert "an alias is not listed" in known.doubt("automation", "flow-100")
    assert known.doubt("journey", "flow-1") == "Courier lists this id as an automation"
    assert "the first subscription makes it" in known.doubt("list", "others")


async def test_what_may_not_be_listed_is_doubted_by_nothing(courier: CourierApi) -> None:
    """A key without the right, a wrong one, a page instead of an answer and silence say why, and block nothing."""
    courier.state.known.journeys = None
    known = await asked(courier.url)
    assert known.problem == "journeys: the API key may not list them"
    assert known.doubt("journey", "anything") == ""
    assert (await asked(courier.url, key="wrong")).problem.endswith("the API key is not accepted")
    courier.script.behave(LOGIN_PAGE)
    assert "Courier answered 200" in (await asked(courier.url)).problem
    await courier.refuse()
    assert "automations, journeys, templates, lists: connection refused" in (await asked(courier.url)).problem


async def test_nobody_waits_longer_than_he_will(courier: CourierApi) -> None:
    """A page goes on without the lists while they are asked for."""
    known = await asked(courier.url, wait_s=0)
    assert "Courier was not asked yet" in known.problem
    assert Known({"list": Listed(names={}), "journey": Listed(names={}, problem="x")}).problem == "journeys: x"
