"""The daemon's own account, read from outside as anybody may: from its metrics."""

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

Books = dict[str, int]  # state -> events; "accepted" beside the five states


async def read_books(operator_url: str) -> dict[str, Books]:
    """Return the account of each route. Raises `aiohttp.ClientError` when the daemon does not answer."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as http,
        http.get(f"{operator_url}/metrics") as response,
    ):
        return parse_books(await response.text())


def parse_books(text: str) -> dict[str, Books]:
    """Return the account of each route out of a scrape."""
    found: dict[str, Books] = {}
    for family in text_string_to_metric_families(text):
        if family.name != "forwarder_events":
            continue
        for sample in family.samples:
            found.setdefault(sample.labels["route"], {})[sample.labels["state"]] = int(sample.value)
    return found
