"""The daemon's own account, read from outside as anybody may: from its metrics."""

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ANSWER_MAX_S = 5
Totals = dict[str, int]  # state -> events; "accepted" beside the five states


async def read_totals(operator_url: str) -> dict[str, Totals]:
    """Return the account of each route. Raises `aiohttp.ClientError` when the daemon does not answer."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_MAX_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as http,
            http.get(f"{operator_url}/metrics") as response,
        ):
            return parse_totals(await response.text())
    except TimeoutError:
        raise aiohttp.ServerTimeoutError from None


def parse_totals(text: str) -> dict[str, Totals]:
    """Return the account of each route out of a scrape."""
    found: dict[str, Totals] = {}
    for family in text_string_to_metric_families(text):
        if family.name != "forwarder_events":
            continue
        for sample in family.samples:
            found.setdefault(sample.labels["route"], {})[sample.labels["state"]] = int(sample.value)
    return found
