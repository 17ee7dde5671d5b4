"""The endpoints of Courier's REST API that the bridge and its checks call: one function each, and the table of all.

Bodies and answers follow Courier's OpenAPI description and documentation. Where those are silent the
choice is the one that shows a mistake of ours: profiles merge at the top level only, a tenant's PUT
replaces it whole.
"""

from typing import Any

from stand_ins.courier_state import Act, CourierState, Json, Operation, Outcome, Params, invalid

_SUCCESS = {"status": "SUCCESS"}
_NO_CONTENT = Outcome(status=204)
_PAGE_MAX = 100
LISTED_PER_PAGE = 40


def _object(body: Json, key: str) -> dict[str, Any] | None:
    found = body.get(key) if isinstance(body, dict) else None
    return found if isinstance(found, dict) else None


def _merge_profile(state: CourierState, params: Params, body: Json, _query: Params) -> Outcome:
    profile = _object(body, "profile")
    if profile is None:
        return invalid("profile is required")
    state.profiles[params["user"]] = state.profiles.get(params["user"], {}) | profile
    return Outcome(status=200, body=_SUCCESS)


def _get_profile(state: CourierState, params: Params, _body: Json, _query: Params) -> Outcome:
    return Outcome(status=200, body={"profile": state.profiles.get(params["user"], {})})


def _invoke_template(state: CourierState, params: Params, body: Json, _query: Params) -> Outcome:
    if not isinstance(body, dict) or "recipient" not in body:
        return invalid("recipient is required")
    known = state.known.automations
    if known is not None and params["template"] not in known:
        return invalid(f"Automation template {params['template']} not found", 404)
    return Outcome(status=200, body={"runId": state.new_id()})


def _invoke_ad_hoc(state: CourierState, _params: Params, body: Json, _query: Params) -> Outcome:
    automation = _object(body, "automation")
    if automation is None or not isinstance(automation.get("steps"), list):
        return invalid("automation.steps is required")
    return Outcome(status=200, body={"runId": state.new_id()})


def _invoke_journey(state: CourierState, params: Params, _body: Json, _query: Params) -> Outcome:
    known = state.known.journeys
    if known is not None and params["journey"] not in known:
        return invalid(f"Journey {params['journey']} not found", 404)
    if params["journey"] in state.known.journeys_declining:
        return invalid("Trigger conditions were not met", 422)
    return Outcome(status=202, body={"runId": state.new_id()})


def _put_tenant(state: CourierState, params: Params, body: Json, _query: Params) -> Outcome:
    if not isinstance(body, dict) or not isinstance(body.get("name"), str) or not body["name"]:
        return invalid("name is required")
    state.tenants[params["tenant"]] = {"id": params["tenant"]} | body
    return Outcome(status=200, body=state.tenants[params["tenant"]])


def _get_tenant(state: CourierState, params: Params, _body: Json, _query: Params) -> Outcome:
    tenant = state.tenants.get(params["tenant"])
    return invalid("Tenant not found", 404) if tenant is None else Outcome(status=200, body=tenant)


def _join_tenant(state: CourierState, params: Params, body: Json, _query: Params) -> Outcome:
    state.memberships[params["user"], params["tenant"]] = _object(body, "profile")
    return _NO_CONTENT


def _subscribe(state: CourierState, params: Params, _body: Json, _query: Params) -> Outcome:
    state.subscriptions.add((params["list"], params["user"]))
    return _NO_CONTENT


def _unsubscribe(state: CourierState, params: Params, _body: Json, _query: Params) -> Outcome:
    state.subscriptions.discard((params["list"], params["user"]))
    return _NO_CONTENT


def _send(state: CourierState, _params: Params, body: Json, _query: Params) -> Outcome:
    message = _object(body, "message")
    if message is None or "to" not in message:
        return invalid("message.to is required")
    known, template = state.known.templates, message.get("template")
    if known is not None and template is not None and template not in known:
        return invalid(f"Template {template} not found", 404)
    return Outcome(status=202, body={"requestId": state.new_id()})


def _inbound_vendor(state: CourierState, _params: Params, body: Json, _query: Params) -> Outcome:
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        return invalid("type is required")
    return _accept_inbound(state, body)


def _accept_inbound(state: CourierState, body: dict[str, Any]) -> Outcome:
    message_id = body.get("messageId")
    if isinstance(message_id, str) and not state.is_new_inbound(message_id):
        return invalid("messageId was accepted before", 409)
    return Outcome(status=202, body={"messageId": state.new_id()})


def _list_messages(state: CourierState, _params: Params, _body: Json, query: Params) -> Outcome:
    after_ms, start = int(query.get("enqueued_after", "0")), int(query.get("cursor") or 0)
    limit = min(int(query.get("limit", "10")), _PAGE_MAX)
    rows = [
        {key: value for key, value in message.items() if key != "providers"}
        for message in state.messages.values()
        if message.get("enqueued", 0) > after_ms and query.get("status") in {None, message.get("status")}
    ]
    more = len(rows) > start + limit
    paging = {"more": more} | ({"cursor": str(start + limit)} if more else {})
    return Outcome(status=200, body={"paging": paging, "results": rows[start : start + limit]})


def _get_message(state: CourierState, params: Params, _body: Json, _query: Params) -> Outcome:
    message = state.messages.get(params["message"])
    return invalid("Message not found", 404) if message is None else Outcome(status=200, body=message)


def _get_history(state: CourierState, params: Params, _body: Json, query: Params) -> Outcome:
    history = state.histories.get(params["message"])
    if history is None:
        return invalid("Message not found", 404)
    return Outcome(
        status=200, body={"results": [item for item in history if query.get("type") in {None, item.get("type")}]}
    )


def _list_nothing(_state: CourierState, _params: Params, _body: Json, _query: Params) -> Outcome:
    return Outcome(status=200, body={"paging": {"more": False}, "items": [], "results": []})


def _listing(kind: str, field: str) -> Act:
    """List ids with their names, so many a page, in the form of that listing."""

    def act(state: CourierState, _params: Params, _body: Json, query: Params) -> Outcome:
        ids: set[str] | None = getattr(state.known, kind)
        if ids is None:
            return Outcome(status=403, body={"message": "Forbidden", "type": "authorization_error"})
        begin = int(query.get("cursor") or 0)
        end = begin + LISTED_PER_PAGE
        cursor = str(end) if end < len(ids) else None
        items = [{"id": one, "name": f"The {one}"} for one in sorted(ids)[begin:end]]
        paging = {"cursor": cursor} if field == "templates" else {"paging": {"more": bool(cursor), "cursor": cursor}}
        return Outcome(status=200, body={field: items} | paging)

    return act


def _recipient(body: Json) -> str:
    return str(body.get("recipient") or "") if isinstance(body, dict) else ""


def _journey_user(body: Json) -> str:
    if not isinstance(body, dict):
        return ""
    places = (body, body.get("data") or {}, body.get("profile") or {})
    keys = ("user_id", "userId", "anonymousId")
    return next((str(place[key]) for place in places for key in keys if place.get(key)), "")


def _addressee(body: Json) -> str:
    to = body["message"]["to"]
    return str(to.get("user_id") or "") if isinstance(to, dict) else ""


def _caller(body: Json) -> str:
    return str(body.get("userId") or body.get("anonymousId") or "")


def _reading(pattern: str, act: Any) -> Operation:
    return Operation(method="GET", pattern=pattern, act=act, changes=False)


OPERATIONS: tuple[Operation, ...] = (
    Operation(method="POST", pattern="/profiles/{user}", act=_merge_profile),
    _reading("/profiles/{user}", _get_profile),
    Operation(method="POST", pattern="/automations/invoke", act=_invoke_ad_hoc, user_of=_recipient),
    Operation(method="POST", pattern="/automations/{template}/invoke", act=_invoke_template, user_of=_recipient),
    Operation(method="POST", pattern="/journeys/{journey}/invoke", act=_invoke_journey, user_of=_journey_user),
    Operation(method="PUT", pattern="/tenants/{tenant}", act=_put_tenant),
    _reading("/tenants/{tenant}", _get_tenant),
    Operation(method="PUT", pattern="/users/{user}/tenants/{tenant}", act=_join_tenant),
    Operation(method="PUT", pattern="/lists/{list}/subscriptions/{user}", act=_subscribe),
    Operation(method="DELETE", pattern="/lists/{list}/subscriptions/{user}", act=_unsubscribe),
    Operation(method="POST", pattern="/send", act=_send, user_of=_addressee),
    Operation(method="POST", pattern="/inbound/rudderstack", act=_inbound_vendor, user_of=_caller),
    Operation(method="POST", pattern="/inbound/segment", act=_inbound_vendor, user_of=_caller),
    _reading("/messages", _list_messages),
    _reading("/messages/{message}", _get_message),
    _reading("/messages/{message}/history", _get_history),
    _reading("/automations", _listing("automations", "templates")),
    _reading("/journeys", _listing("journeys", "templates")),
    _reading("/notifications", _listing("templates", "results")),
    _reading("/lists", _listing("lists", "items")),
    _reading("/tenants", _list_nothing),
)
