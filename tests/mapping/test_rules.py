"""The operator's rules: what they do to an event, and what is said of a file with mistakes."""

import copy
import hashlib
import hmac
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import RulesInvalid
from forwarder.mapping.rule import MappedEvent
from forwarder.mapping.rules import Rules
from forwarder.model import Filtered

_DOCUMENT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
_EXAMPLE = next(block for block in re.findall(r"```toml\n(.*?)```", _DOCUMENT, flags=re.DOTALL) if "[[rule]]" in block)

_DATA: dict[str, Any] = {
    "id": "1-6955c3a2-243dac7046444e2fec3a4a30",
    "status": "SENT",
    "sent": 1_767_228_324_560,
    "recipient": "maya.okafor@example.com",
    "is_test": True,
    "nothing": None,
    "providers": [{"provider": "sendgrid", "reference": {"x": "1"}}, {"provider": "twilio"}, "bare"],
    "plan.tier": "gold",
    "tags": ["promo", 7],
}


def _event(**fields: Any) -> MappedEvent:
    defaults: dict[str, Any] = {
        "kind": "message:updated",
        "data": _DATA,
        "event": "Message Sent",
        "user_id": "usr_1",
        "anonymous_id": "",
        "properties": _DATA,
        "context": {"traits": {"email": "maya.okafor@example.com"}},
    }
    return MappedEvent(**{**defaults, **fields})


def _applied(text: str, event: MappedEvent | None = None) -> MappedEvent:
    result = Rules.parse(text).apply(event or _event())
    assert isinstance(result, MappedEvent)
    return result


def _is_filtered(condition: str) -> bool:
    return isinstance(Rules.parse(f"[[rule]]\nwhen = {{ {condition} }}\nfilter = true").apply(_event()), Filtered)


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param('field = "data.status", equals = "SENT"', id="equals text"),
        pytest.param('field = "data.sent", equals = 1767228324560', id="equals a number"),
        pytest.param('field = "data.is_test", equals = true', id="equals true"),
        pytest.param('field = "data.tags", equals = ["promo", 7]', id="equals a list"),
        pytest.param('field = "data.tags[]", equals = "promo"', id="one element of a list"),
        pytest.param('field = "data.providers[].provider", equals = "twilio"', id="one of many entries"),
        pytest.param('field = "data.status", in = ["OPENED", "SENT"]', id="one of some values"),
        pytest.param("field = \"data.recipient\", matches = '@example\\.com$'", id="a pattern"),
        pytest.param("field = \"data.sent\", matches = '^1767'", id="a pattern on a number"),
        pytest.param('field = "data.status", exists = true', id="exists"),
        pytest.param('field = "data.reason", exists = false', id="does not exist"),
        pytest.param('field = "data.nothing", exists = false', id="null does not exist"),
        pytest.param('field = "data.reason", equals = "X", not = true', id="a missing field equals nothing"),
        pytest.param('field = \'data."plan.tier"\', equals = "gold"', id="a name with a dot"),
        pytest.param('field = "event", equals = "Message Sent"', id="the name"),
        pytest.param('field = "type", equals = "message:updated"', id="the type"),
        pytest.param('field = "userId", equals = "usr_1"', id="the user"),
        pytest.param('field = "anonymousId", exists = false', id="no anonymous id beside a user"),
        pytest.param('field = "context.traits.email", exists = true', id="the context"),
    ],
)
def test_a_condition_that_holds(condition: str) -> None:
    """Each operator holds for the values it is meant for."""
    assert _is_filtered(condition)


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param('field = "data.status", equals = "sent"', id="another case"),
        pytest.param('field = "data.is_test", equals = 1', id="true is not 1"),
        pytest.param('field = "data.sent", equals = "1767228324560"', id="a number is not text"),
        pytest.param('field = "data.status", in = ["OPENED"]', id="none of these"),
        pytest.param("field = \"data.is_test\", matches = 'true'", id="a pattern on true"),
        pytest.param("field = \"data.reason\", matches = '.'", id="a pattern on nothing"),
        pytest.param('field = "data.providers.provider", exists = true', id="a list without []"),
        pytest.param('field = "data.status[]", exists = true', id="[] on text"),
        pytest.param('field = "data.status.x", exists = true', id="into text"),
        pytest.param('field = "data.status", equals = "SENT", not = true', id="not"),
    ],
)
def test_a_condition_that_does_not_hold(condition: str) -> None:
    """No operator holds for what only resembles its value."""
    assert not _is_filtered(condition)


def test_all_conditions_must_hold() -> None:
    """A rule applies when every one of its conditions does."""
    both = 'when = [{field = "data.status", equals = "SENT"}, {field = "userId", equals = "%s"}]'
    for user, name in (("usr_1", "New"), ("usr_2", "Message Sent")):
        assert _applied(f'[[rule]]\n{both % user}\nrename = "New"').event == name


def test_rules_apply_in_order() -> None:
    """A later rule sees what an earlier one made."""
    text = '[[rule]]\nrename = "A"\n[[rule]]\nwhen = {field = "event", equals = "A"}\nrename = "B"'
    assert _applied(text).event == "B"


def test_what_a_rule_filters_has_its_name_for_a_reason() -> None:
    """People see which rule it was, by name or by number."""
    assert Rules.parse('[[rule]]\nname = "no tests"\nfilter = true').apply(_event()) == Filtered(reason="rule no tests")
    assert Rules.parse('[[rule]]\nrename = "x"\n[[rule]]\nfilter = true').apply(_event()) == Filtered(reason="rule 2")


def test_setting_makes_what_is_missing_on_the_way() -> None:
    """A path is set whether or not its objects are there; lists are set element by element."""
    event = _applied(
        '[[rule]]\nset = {"properties.a.b" = 1, "properties.status.x" = [true], "context.app.name" = "shop",'
        ' "userId" = "u2", "properties.providers[].team" = "t", "properties.none[].x" = 1, "properties.tags[]" = "t"}',
    )
    assert event.properties["a"] == {"b": 1}
    assert event.properties["status"] == {"x": [True]}
    assert event.properties["tags"] == ["t", "t"]
    assert [entry["team"] for entry in event.properties["providers"]] == ["t", "t", "t"]
    assert "none" not in event.properties
    assert event.context["app"] == {"name": "shop"}
    assert event.user_id == "u2"


def test_copying_takes_the_first_value() -> None:
    """A path gets the first value of another, of the webhook too; where there is none it stays as it is."""
    event = _applied(
        '[[rule]]\ncopy = {"userId" = "data.recipient", "properties.first" = "data.providers[].provider",'
        ' "properties.status" = "data.nowhere", "anonymousId" = "data.sent"}',
    )
    assert (event.user_id, event.anonymous_id) == ("maya.okafor@example.com", "1767228324560")
    assert event.properties["first"] == "sendgrid"
    assert event.properties["status"] == "SENT"


def test_removing_takes_out_what_is_there() -> None:
    """A removed path is gone, in every element too; one that is not there is no mistake."""
    event = _applied(
        '[[rule]]\nremove = ["properties.providers[].reference", "properties.tags[]", "properties.no.thing", "userId",'
        ' "context.traits.email"]',
    )
    assert event.properties["providers"] == [{"provider": "sendgrid"}, {"provider": "twilio"}, "bare"]
    assert event.properties["tags"] == []
    assert event.user_id == ""
    assert event.context == {"traits": {}}


@pytest.mark.parametrize("salt", ["pepper", ""])
def test_hashing_is_what_it_says(salt: str) -> None:
    """A digest is HMAC-SHA256 with the salt, or plain SHA-256 without, and the same for the same value."""
    value = b"maya.okafor@example.com"
    digest = hmac.new(salt.encode(), value, hashlib.sha256).hexdigest() if salt else hashlib.sha256(value).hexdigest()
    event = _applied(f'salt = "{salt}"\n[[rule]]\nhash = ["properties.recipient", "context.traits.email", "userId"]')
    assert event.properties["recipient"] == event.context["traits"]["email"] == digest
    assert len(event.user_id) == 64


def test_hashing_keeps_shapes() -> None:
    """Lists and objects stay what they are, null stays null, and numbers are hashed as they are written."""
    event = _applied('salt = ""\n[[rule]]\nhash = ["properties.tags", "properties.providers", "properties.nothing"]')
    assert event.properties["tags"][1] == hashlib.sha256(b"7").hexdigest()
    assert set(event.properties["providers"][0]) == {"provider", "reference"}
    assert event.properties["providers"][0]["reference"] == {"x": hashlib.sha256(b"1").hexdigest()}
    assert event.properties["nothing"] is None


def test_the_data_stays_as_it_came() -> None:
    """A changed property does not change the webhook's data that later conditions see."""
    text = (
        '[[rule]]\nset = {"properties.status" = "X"}\n'
        '[[rule]]\nwhen = {field = "data.status", equals = "SENT"}\nrename = "still SENT"'
    )
    assert _applied(text).event == "still SENT"


def test_no_rules_change_nothing() -> None:
    """Without rules the very event comes back."""
    event = _event()
    assert Rules().apply(event) is event
    assert Rules.parse("").apply(event) is event


def test_the_salt_is_in_no_repr() -> None:
    """Printing the rules does not show the salt."""
    assert "pepper" not in repr(Rules.parse('salt = "pepper"\n[[rule]]\nhash = "userId"'))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[[rule]\n", "r.toml: not TOML: ", id="no TOML"),
        pytest.param(
            'slat = "x"', "r.toml:1: slat: is an unknown key (did you mean salt?): use salt, rule", id="top key"
        ),
        pytest.param("salt = 1", "r.toml:1: salt: is no text", id="salt"),
        pytest.param('rule = "x"', "r.toml:1: rule: is no list of tables: write [[rule]]", id="rule no list"),
        pytest.param("[rule]\nfilter = true", "r.toml:1: rule: is no list of tables", id="single brackets"),
        pytest.param("rule = [1]", "r.toml:1: rule[1]: is no table", id="rule no table"),
        pytest.param("[[rule]]\nfilter = true\n" * 201, "r.toml:1: rule: holds more than 200 rules", id="too many"),
        pytest.param(
            '\n[[rule]]\nrenam = "x"', "r.toml:3: rule[1].renam: is an unknown key (did you mean rename?)", id="key"
        ),
        pytest.param("[[rule]]\nfilter = 1", "r.toml:2: rule[1].filter: is neither true nor false", id="filter"),
        pytest.param('[[rule]]\nname = "x"', "r.toml:1: rule[1]: does nothing: give it filter = true", id="no action"),
        pytest.param(
            '[[rule]]\nfilter = true\nrename = "x"', "r.toml:2: rule[1].filter: leaves nothing to change", id="both"
        ),
        pytest.param('[[rule]]\nrename = " "', "r.toml:2: rule[1].rename: is no event name", id="empty name"),
        pytest.param("[[rule]]\nrename = 1", "r.toml:2: rule[1].rename: is no text", id="name no text"),
        pytest.param(
            "[[rule]]\nwhen = 1\nfilter = true", "r.toml:2: rule[1].when: is neither a condition nor", id="when"
        ),
        pytest.param(
            "[[rule]]\nwhen = [\n1]\nfilter = true", "r.toml:3: rule[1].when[1]: is no condition", id="no table"
        ),
        pytest.param(
            '[[rule]]\nwhen = [\n {field = "event", in = [1]},\n {field = "event", equalz = "a"},\n]\nfilter = true',
            "r.toml:4: rule[1].when[2].equalz: is an unknown key (did you mean equals?)",
            id="operator",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event"}\nfilter = true',
            "r.toml:2: rule[1].when: needs exactly one of",
            id="none",
        ),
        pytest.param(
            '[[rule]]\nwhen = {equals = "a"}\nfilter = true', "r.toml:2: rule[1].when: names no field", id="no field"
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "evnt", equals = 1}\nfilter = true',
            "r.toml:2: rule[1].when.field: begins with an unknown evnt (did you mean event?)",
            id="root",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "a..b", equals = 1}\nfilter = true',
            "r.toml:2: rule[1].when.field: is not a path",
            id="path",
        ),
        pytest.param(
            "[[rule]]\nwhen = {field = 1, equals = 1}\nfilter = true",
            "r.toml:2: rule[1].when.field: is no path",
            id="number",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event", in = "a"}\nfilter = true',
            "r.toml:2: rule[1].when.in: is no list",
            id="in",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event", exists = "a"}\nfilter = true',
            "r.toml:2: rule[1].when.exists: is neither true nor false",
            id="exists",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event", matches = 1}\nfilter = true',
            "r.toml:2: rule[1].when.matches: is no text",
            id="pattern no text",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event", matches = "("}\nfilter = true',
            "r.toml:2: rule[1].when.matches: is not a regular expression",
            id="pattern",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event", matches = "(a+)+"}\nfilter = true',
            "r.toml:2: rule[1].when.matches: a repeat of a group",
            id="pattern without bounds",
        ),
        pytest.param(
            '[[rule]]\nwhen = {field = "event", equals = 2026-01-01}\nfilter = true',
            "r.toml:2: rule[1].when.equals: holds a value that JSON has no form for",
            id="a date",
        ),
        pytest.param(
            '[[rule]]\nset = {"properties.a" = {b = [nan]}}',
            'rule[1].set."properties.a": holds a value',
            id="not a number",
        ),
        pytest.param('[[rule]]\ncopy = "x"', "r.toml:2: rule[1].copy: is no table", id="copy"),
        pytest.param(
            '[[rule]]\ncopy = {"data.id" = "event", "userId" = 1}',
            "rule[1].copy.userId: is no path",
            id="copy of a number",
        ),
        pytest.param('[[rule]]\nset = "x"', "r.toml:2: rule[1].set: is no table", id="set"),
        pytest.param("[[rule]]\nset.userId = 1", "r.toml:2: rule[1].set.userId: is no text", id="id no text"),
        pytest.param(
            '[[rule]]\n[rule.set]\nproperties.a = "x"',
            "r.toml:3: rule[1].set.properties: sets the whole of properties",
            id="unquoted path",
        ),
        pytest.param("[[rule]]\nremove = 1", "r.toml:2: rule[1].remove: is no list of paths", id="remove"),
        pytest.param(
            '[[rule]]\nremove = ["userId",\n "data.id"]',
            "r.toml:3: rule[1].remove[2]: begins with an unknown data",
            id="data",
        ),
        pytest.param('[[rule]]\nremove = ["userId.x"]', "leads into userId, which is a text", id="into an id"),
        pytest.param('[[rule]]\nremove = ["properties"]', "is the whole of properties", id="whole"),
        pytest.param('[[rule]]\nremove = ["context.library.name"]', "is the mark by which our own events", id="mark"),
        pytest.param('[[rule]]\n\nhash = ["userId"]', "r.toml:3: rule[1].hash: needs a salt", id="no salt"),
    ],
)
def test_a_mistake_is_told_with_its_line_key_and_remedy(text: str, problem: str) -> None:
    """Each mistake names the file, the line, the key and what to do."""
    with pytest.raises(RulesInvalid) as invalid:
        Rules.parse(text, file="r.toml")
    assert problem in str(invalid.value)


def test_all_mistakes_are_told_at_once() -> None:
    """Three mistakes are three lines, in one error."""
    text = '[[rule]]\nrenam = "x"\n[[rule]]\nhash = ["propertys.a"]\n[[rule]]\nwhen = {field = "event"}\nfilter = true'
    with pytest.raises(RulesInvalid) as invalid:
        Rules.parse(text, file="r.toml")
    assert [line.split(": ")[0] for line in str(invalid.value).splitlines()] == ["r.toml:2", "r.toml:4", "r.toml:6"]


@pytest.mark.parametrize("field", ["filter", "rename"])
def test_the_documents_example_does_what_it_says(field: str) -> None:
    """The example of docs/rules.md is read and works as its text tells."""
    rules = Rules.parse(_EXAMPLE)
    if field == "filter":
        simulated = _event(data={**_DATA, "status": "SIMULATED"})
        assert rules.apply(simulated) == Filtered(reason="rule no test sends")
        return
    data = {**_DATA, "status": "UNDELIVERABLE", "reason": "BOUNCED", "error": "550", "notification": "T1"}
    event = rules.apply(_event(event="Message Undeliverable", data=data, properties=data))
    assert isinstance(event, MappedEvent)
    assert event.event == "Notification Bounced"
    assert event.properties["team"] == "growth"
    assert event.context["app"] == {"name": "shop"}
    assert event.properties["template"] == "T1"
    assert "error" not in event.properties
    assert "maya" not in json.dumps([event.properties, event.context, event.user_id])


def test_the_documents_mistakes_are_ours() -> None:
    """The messages that docs/rules.md shows are those that are really given."""
    shown = [line for line in _DOCUMENT.splitlines() if line.startswith("rules.toml:")]
    text = '[[rule]]\nfilter = true\nwhen = { field = "event", equalz = "a" }\n[[rule]]\nhash = ["propertys.recipient"]'
    with pytest.raises(RulesInvalid) as invalid:
        Rules.parse(text, file="rules.toml")
    given_words = [re.sub(r"^rules\.toml:\d+: ", "", line) for line in str(invalid.value).splitlines()]
    assert all(re.sub(r"^rules\.toml:\d+: ", "", line) in given_words for line in shown)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
_steps = st.lists(st.sampled_from(["a", "b", "c", "a[]", "b[][]"]), min_size=1, max_size=3).map(".".join)


@settings(max_examples=200, deadline=None)
@given(
    properties=st.dictionaries(st.sampled_from("abc"), _values, max_size=3),
    steps=_steps,
    action=st.sampled_from(
        ["set = {{'properties.{0}' = 1}}", "remove = ['properties.{0}']", "hash = ['properties.{0}']"]
    ),
)
def test_a_rule_never_changes_what_it_was_given(properties: dict[str, Any], steps: str, action: str) -> None:
    """Whatever the values and paths, rules make new values, leave the old ones as they are, and are deterministic."""
    before = copy.deepcopy(properties)
    rules = Rules.parse("salt = ''\n[[rule]]\n" + action.format(steps))
    event = _event(properties=properties, data=properties)
    first, second = rules.apply(event), rules.apply(event)
    assert properties == before
    assert first == second
    assert isinstance(first, MappedEvent)
    assert msgspec.json.encode(first.properties)


def test_the_example_is_toml() -> None:
    """The example can be read by any TOML reader."""
    assert len(tomllib.loads(_EXAMPLE)["rule"]) == 3
