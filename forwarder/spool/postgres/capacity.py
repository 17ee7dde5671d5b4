"""Whether new events fit: what all replicas have unsettled or dead counts against them."""

from collections.abc import Sequence

from forwarder.model import RouteName
from forwarder.spool.codes import ROUTES, Account
from forwarder.spool.limits import SpoolLimits, refusal
from forwarder.spool.postgres.reconnecting import Connection
from forwarder.spool.postgres.transaction import ACCOUNTS, read_totals
from forwarder.spool.postgres.writer import Writer


class Capacity:
    """What is known of the totals: this replica's own to the last commit, the others' as of the last look."""

    def __init__(self, limits: SpoolLimits, writers: Sequence[Writer]) -> None:
        self._limits = limits
        self._writers = writers
        self._others = [0] * (2 * ACCOUNTS)
        self._refused: dict[RouteName, int] = {}  # what the last append would have added, if the cap refused it

    def ask(self, incoming: dict[RouteName, int]) -> str:
        """Return why so many more bytes, by route, do not fit; "" when they do."""
        why = self._refusal(incoming)
        self._refused = incoming if why else {}
        return why

    def refusal(self) -> str:
        """Return why the last append would be refused now; "" when it was not, or would not."""
        return self._refusal(self._refused)

    async def look(self, connection: Connection) -> None:
        """Read what the others have."""
        async with connection.statement() as session:
            self._others = await read_totals(session, but=lambda: [writer.slot for writer in self._writers])

    def _refusal(self, incoming: dict[RouteName, int]) -> str:
        amounts = [sum(of) for of in zip(self._others, *(writer.amounts for writer in self._writers), strict=True)]
        unsettled = {name: amounts[code * ACCOUNTS + Account.UNSETTLED_BYTES] for code, name in enumerate(ROUTES)}
        dead = sum(amounts[code * ACCOUNTS + Account.DEAD_BYTES] for code in (0, 1))
        return refusal(self._limits, used=0, unsettled=unsettled, dead=dead, incoming=incoming)
