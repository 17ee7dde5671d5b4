"""Where people act: destination events, dead letters, settings, audit, the login and the progress of long work.

Deliberately absent: the pages that show events (`routes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from forwarder.operator.desk import OperatorDesk
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.pages.acts import as_page
from forwarder.operator.pages.audit import audit_routes
from forwarder.operator.pages.dead_letters import dead_letter_routes
from forwarder.operator.pages.destination_events import destination_event_routes
from forwarder.operator.pages.jobs import Jobs, job_routes
from forwarder.operator.pages.login import login_routes
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.settings_page import Check, settings_routes
from forwarder.operator.sessions import Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """What these pages are made of. `jobs` and `sessions` are theirs alone; whoever serves them closes `jobs`."""

    desk: OperatorDesk
    render: Renderer
    jobs: Jobs
    sessions: Sessions
    guard: OperatorGuard
    check: Check

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes, to be put beside those of the other pages."""
        pages = (
            *destination_event_routes(self.desk, self.render, self.jobs),
            *dead_letter_routes(self.desk, self.render, self.jobs),
            *settings_routes(self.desk, self.render, self.check),
            *audit_routes(self.desk, self.render),
            *login_routes(self.desk, self.render, guard=self.guard, sessions=self.sessions),
            *job_routes(self.jobs, self.render),
        )
        return [
            web.RouteDef(route.method, route.path, as_page(route.handler, self.render), route.kwargs) for route in pages
        ]
