"""The page on which a person is erased: it counts and asks first, and says what was done."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from msgspec import Struct

from forwarder.operator.acts import Acts
from forwarder.operator.forgetting import Forget, Forgotten, forget
from forwarder.operator.operation import FORM, Operation
from forwarder.operator.pages.render import Renderer
from forwarder.operator.people import who


class ForgetForm(Struct, frozen=True, kw_only=True):
    """Whose events. Without `confirmed`=1 the answer counts them and asks."""

    user: str = ""
    confirmed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPage:
    """The form, the question and what was done."""

    acts: Acts
    render: Renderer

    def operations(self) -> Sequence[Operation]:
        """Return them."""
        return (
            Operation("GET", "/forget", "Erase a person", self.show, is_act=True),
            Operation(
                "POST", "/forget", "Count a person's events, then erase them (the page's form)", self.erase, FORM
            ),
        )

    async def show(self, request: web.Request, form: ForgetForm) -> web.Response:
        """Ask whom."""
        return await self._page(request, form)

    async def erase(self, request: web.Request, form: ForgetForm) -> web.Response:
        """Count, or erase all of it."""
        if not form.user:
            return await self._page(request, form)
        is_sure = form.confirmed == "1"
        given = Forget(user_id=form.user, dry_run=not is_sure)
        told = await forget(self.acts, given, who=who(request), within_s=math.inf)
        return await self._page(request, form, **({"done": told} if is_sure else {"counted": told}))

    async def _page(
        self, request: web.Request, form: ForgetForm, *, done: Forgotten | None = None, counted: Forgotten | None = None
    ) -> web.Response:
        counts = {state.value: count for state, count in counted.states.items()} if counted is not None else None
        return await self.render.page(request, "forget.html", user=form.user, done=done, counted=counts)
