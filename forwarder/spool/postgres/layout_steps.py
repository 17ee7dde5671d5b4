"""The numbered steps from layout to layout: forward only, under a lock, each whole or not at all.

Programs of the layout before run on beside a step, unless it says that they may not; then it waits until none does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

import asyncpg

from forwarder import __version__
from forwarder.errors import SpoolAway, SpoolTooNew, SpoolUnusable
from forwarder.spool.postgres.layout import LOCK, UNFINISHED, add_blocks, has_schema, last_sequence
from forwarder.spool.postgres.reconnecting import Connection

LAYOUT = 2
# Who works beside waits no longer for a table than a step does. Nobody renews a lease between the look and the step.
_ALONE = "SET LOCAL lock_timeout = '1s'; LOCK TABLE forwarder.replicas IN SHARE ROW EXCLUSIVE MODE"
# Programs of layout 1 know neither `step` nor `made_by`.
_LOOK = """
SELECT max(number), max(coalesce((to_jsonb(l)->>'step')::integer, number)),
  (array_agg(coalesce(to_jsonb(l)->>'made_by', '') ORDER BY number DESC, made_at))[1]
FROM forwarder.layout l
"""
_OLDER = """
SELECT count(*) FROM forwarder.replicas r
WHERE until >= clock_timestamp() AND coalesce((to_jsonb(r)->>'layout')::integer, 1) < $1
"""
_TAKEN = "INSERT INTO forwarder.layout (number, step, made_by) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What makes a layout of the one before, within seconds: it holds locks that others wait for.

    `readable_by` is the lowest layout whose programs may work beside it. Where those before it may not, it also renames
    `forwarder.arrivals`: one that was paused since before then fails at its next commit, and does not write wrongly.
    """

    sql: str
    readable_by: int


STEPS: Mapping[int, Step] = {
    2: Step(
        sql="""
        ALTER TABLE forwarder.layout ADD COLUMN step integer, ADD COLUMN made_by text NOT NULL DEFAULT '';
        UPDATE forwarder.layout SET step = number;
        ALTER TABLE forwarder.layout DROP CONSTRAINT layout_pkey, ADD PRIMARY KEY (step);
        ALTER TABLE forwarder.replicas ADD COLUMN layout integer NOT NULL DEFAULT 1;
        """,
        readable_by=1,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a version knows: its layout, and how it is made."""

    layout: int = LAYOUT
    steps: Mapping[int, Step] = field(default_factory=lambda: STEPS)


THIS = Program()


@dataclass(frozen=True, slots=True)
class Found:
    """What the database says of its layout."""

    needed: int  # the lowest layout that a program must know to work here
    step: int  # the layout it has
    made_by: str  # the first version that knows what is needed; "" where that was not noted

    @property
    def is_unfinished(self) -> bool:
        """Tell whether a move into the database was begun and is not complete."""
        return self.needed == UNFINISHED


async def look(connection: asyncpg.Connection) -> Found:
    """Read it; there must be a schema."""
    return Found(*await connection.fetchrow(_LOOK))


def refuse(found: Found, program: Program = THIS) -> None:
    """Raise `SpoolTooNew` where a later version must be run, `SpoolUnusable` where a move must be completed."""
    if found.is_unfinished:
        raise SpoolUnusable("a move into this database was begun and is not complete: run `forwarder migrate` again")
    if found.needed > program.layout:
        raise SpoolTooNew(too_new(found, program))


def too_new(found: Found, program: Program = THIS) -> str:
    """Say which version can work on a layout that this one cannot."""
    made_by = f"forwarder {found.made_by}" if found.made_by else "a newer version"
    return (
        f"the database has layout {found.step}, for versions that know layout {found.needed} or a later one; this is "
        f"forwarder {__version__}, which knows {program.layout}: run {made_by} or a later one"
    )


async def make_schema(connection: asyncpg.Connection) -> None:
    """Make an empty one of the newest layout, without blocks, inside a transaction."""
    await connection.execute((files("forwarder.spool.postgres") / "schema.sql").read_text())
    await connection.execute(_TAKEN, max(step.readable_by for step in STEPS.values()), LAYOUT, __version__)


async def prepare(connection: Connection, program: Program = THIS, *, is_replica: bool = True) -> None:
    """Make the schema where there is none, and move its layout on, step by step.

    Who is no replica moves nothing on. Raises `SpoolTooNew` and `SpoolUnusable` with the remedy, and `SpoolAway` while
    a step must wait for others.
    """
    while not await _is_prepared(connection, program, is_replica=is_replica):
        pass


async def _is_prepared(connection: Connection, program: Program, *, is_replica: bool) -> bool:
    async with connection.transaction() as one:
        await one.execute(LOCK)
        if not await has_schema(one):
            await make_schema(one)
        found = await look(one)
        refuse(found, program)
        if found.step >= program.layout:
            await add_blocks(one, behind=await last_sequence(one))
            return True
        if not is_replica:
            raise SpoolUnusable(
                f"the database has layout {found.step}, which a daemon of this version moves on to {program.layout} at "
                "its start: start it, or use the command of the version that runs"
            )
        await _step(one, found, program)
    return False


async def _step(connection: asyncpg.Connection, found: Found, program: Program) -> None:
    number = found.step + 1
    step = program.steps[number]
    needed = max(found.needed, step.readable_by)
    try:
        await connection.execute(_ALONE)
        older = await connection.fetchval(_OLDER, needed)
        if not older:
            await connection.execute(step.sql)
    except asyncpg.LockNotAvailableError:
        raise SpoolAway(f"layout {number} must wait for a transaction that uses its tables") from None
    if older:
        raise SpoolAway(
            f"layout {number} must wait for {older} {'replica' if older == 1 else 'replicas'} of versions that cannot "
            f"work on it (below layout {needed}): stop every one of them"
        )
    await connection.execute(_TAKEN, needed, number, __version__)
