"""What Courier's REST API does with a request: profiles, tenants, lists, runs, sends. Pure but for its own state.

Knows no HTTP and no idempotency. Every change is recorded as an `Effect`, in order, so that a test can
ask what happened to a user, how often and when. Error texts are this stand-in's own, their shape is
Courier's: `{"message", "type": "invalid_request_error"}`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from forwarder.demo.call_stream import Effect

Json = Any
Params = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to answer. `is_invalid`: validation failed, so Courier keeps no answer under the key."""

    status: int
    body: Json = None
    is_invalid: bool = False

    @property
    def is_success(self) -> bool:
        """Tell whether it was done."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


@dataclass(slots=True, kw_only=True)
class Known:
    """What exists in the workspace. None: every id does, and the API key may not list them."""

    automations: set[str] | None = None
    journeys: set[str] | None = None
    templates: set[str] | None = None
    lists: set[str] | None = None
    journeys_declining: set[str] = field(default_factory=set)  # their conditions are never met: 422


def invalid(message: str, status: int = 400) -> Outcome:
    """Return a refusal in the shape of Courier's errors."""
    return Outcome(status=status, body={"message": message, "type": "invalid_request_error"}, is_invalid=True)


class CourierState:
    """The workspace behind the stand-in. Not thread-safe; no call of it awaits, so each is atomic."""

    def __init__(self, known: Known, *, effects_max: int | None = None) -> None:
        self.known = known
        self.profiles: dict[str, dict[str, Json]] = {}
        self.tenants: dict[str, dict[str, Json]] = {}
        self.memberships: dict[tuple[str, str], Json] = {}  # (user, tenant)
        self.subscriptions: set[tuple[str, str]] = set()  # (list, user)
        self.messages: dict[str, dict[str, Json]] = {}  # message id → the message, as GET /messages/{id} shows it
        self.histories: dict[str, list[Json]] = {}
        self.effects: deque[Effect] = deque(maxlen=effects_max)
        self.effect_count = 0
        self.on_effect: Callable[[Effect], None] | None = None
        self._inbound_ids: set[str] = set()
        self._runs = 0

    def perform(
        self,
        operation: "Operation",
        params: Params,
        body: Json,
        *,
        query: Params,
        idempotency_key: str = "",
    ) -> Outcome:
        """Do it and return what to answer; record the effect when there was one."""
        outcome = operation.act(self, params, body, query)
        if operation.changes and outcome.is_success:
            user = params.get("user") or operation.user_of(body)
            self._record(
                Effect(
                    user=user,
                    operation=f"{operation.method} {operation.pattern}",
                    params=params,
                    body=body,
                    idempotency_key=idempotency_key,
                )
            )
        return outcome

    def effects_of(self, user: str) -> list[Effect]:
        """Return what happened to a user, in order."""
        return [effect for effect in self.effects if effect.user == user]

    def new_id(self) -> str:
        """Return an id in Courier's form, `1-<8 hex>-<24 hex>`."""
        self._runs += 1
        return f"1-{0x65F240A0 + self._runs:08x}-{self._runs:024x}"

    def is_new_inbound(self, message_id: str) -> bool:
        """Tell whether this messageId never came before, and remember it."""
        is_new = message_id not in self._inbound_ids
        self._inbound_ids.add(message_id)
        return is_new

    def _record(self, effect: Effect) -> None:
        self.effect_count += 1
        self.effects.append(effect)
        if self.on_effect is not None:
            self.on_effect(effect)


Act = Callable[[CourierState, Params, Json, Params], Outcome]


def _no_user(body: Json) -> str:  # noqa: ARG001 - the shape of `Operation.user_of`
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One endpoint. `pattern` has named segments in braces; `user_of` finds the user in the body."""

    method: str
    pattern: str
    act: Act
    user_of: Callable[[Json], str] = _no_user
    changes: bool = True

    def match(self, method: str, segments: Sequence[str]) -> dict[str, str] | None:
        """Return the parameters when this is the endpoint of a decoded path, else None."""
        wanted = self.pattern.strip("/").split("/")
        if method != self.method or len(wanted) != len(segments):
            return None
        params: dict[str, str] = {}
        for want, got in zip(wanted, segments, strict=True):
            if want.startswith("{"):
                params[want[1:-1]] = got
            elif want != got:
                return None
        return params
