"""What waits to be stored: all of it goes into the next commit, by one statement."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import RouteName
from forwarder.spool.limits import incoming_bytes
from forwarder.spool.postgres.appends import Append, Appender, Intake
from forwarder.spool.postgres.transaction import Transaction
from forwarder.spool.postgres.writer import Job, Writer

_EVENTS_MAX = 2_000  # in one statement; an append is never divided


@dataclass(slots=True)
class _Group:
    """The appends of one job. They are chosen when its turn comes."""

    appends: list[Append] = field(default_factory=list)


class AppendQueue:
    """Have appends stored together; a bad one alone is refused."""

    def __init__(self, writer: Writer, appender: Appender, heard: Callable[[Intake], None]) -> None:
        self._writer = writer
        self._appender = appender
        self._heard = heard
        self._waiting: list[Append] = []
        self._is_submitted = False

    def add(self, append: Append) -> None:
        """Store it with the next commit."""
        self._waiting.append(append)
        if not self._is_submitted:
            self._is_submitted = True
            self._submit(_Group())

    def incoming_bytes(self) -> dict[RouteName, int]:
        """Return what waits, by route."""
        return incoming_bytes([envelope for append in self._waiting for envelope in append.envelopes])

    def _submit(self, group: _Group) -> None:
        async def work(transaction: Transaction, _items: Sequence[None]) -> Sequence[Intake]:
            if not group.appends:
                self._take(group)
            return [await self._appender.store(transaction, group.appends)]

        self._writer.submit(
            Job(work, None, lambda intake: self._stored(group, intake), lambda e: self._failed(group, e))
        )

    def _take(self, group: _Group) -> None:
        events = 0
        while self._waiting and (not events or events + len(self._waiting[0].envelopes) <= _EVENTS_MAX):
            append = self._waiting.pop(0)
            events += max(1, len(append.envelopes))
            group.appends.append(append)
        self._is_submitted = bool(self._waiting)
        if self._is_submitted:
            asyncio.get_running_loop().call_soon(self._submit, _Group())

    def _stored(self, group: _Group, intake: Intake) -> None:
        self._heard(intake)
        for append, receipt in zip(group.appends, intake.answers, strict=True):
            try:
                append.on_commit(receipt)
            except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a commit could not be heard", "exception": error}
                )
                self._refuse([append], SpoolClosed("what was stored could not be answered: a copy is a duplicate"))

    def _failed(self, group: _Group, error: Exception) -> None:
        self._appender.forget()
        if not group.appends:  # it never had its turn
            self._waiting, group.appends = [], self._waiting
            self._is_submitted = False
        if isinstance(error, SpoolFull | SpoolClosed):
            self._refuse(group.appends, error)
        elif len(group.appends) == 1:
            self._refuse(group.appends, SpoolClosed(f"the spool could not take this ({type(error).__name__})"))
        else:  # one of them is the culprit: each is tried alone
            for append in group.appends:
                self._submit(_Group([append]))

    def _refuse(self, appends: Sequence[Append], error: SpoolFull | SpoolClosed) -> None:
        for append in appends:
            try:
                append.on_rollback(error)
            except Exception as bug:  # noqa: BLE001 - as above
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a rollback could not be heard", "exception": bug}
                )
