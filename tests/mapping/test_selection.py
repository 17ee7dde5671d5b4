"""Which events FORWARDER_EVENTS admits."""

import pytest

from forwarder.mapping.selection import EventSelection, unknown_events

_NAMES = ("Message Sent", "Email Sent")


@pytest.mark.parametrize(
    ("words", "kind", "status", "admitted"),
    [
        (["native"], "message:updated", "SENT", True),
        (["native"], "message:updated", "ENQUEUED", False),
        (["native"], "message:archived", "SENT", False),
        (["native"], "audiences:user:matched", "", True),
        (["native"], "audiences:updated", "", False),
        (["all"], "message:updated", "ENQUEUED", True),
        (["all"], "workspace:renamed", "", True),
        (["native", "ENQUEUED"], "message:updated", "ENQUEUED", True),
        (["native", "ENQUEUED"], "message:updated", "CLICKED", True),
        (["enqueued"], "message:updated", "ENQUEUED", True),
        (["ENQUEUED"], "message:updated", "CLICKED", False),
        (["message:updated"], "message:updated", "DIGESTED", True),
        (["Audiences:Updated"], "audiences:updated", "", True),
        (["email sent"], "message:updated", "SENT", True),
        (["Message Sent"], "message:updated", "SENT", True),
        (["SENT"], "message:archived", "SENT", False),
    ],
)
def test_what_is_admitted(*, words: list[str], kind: str, status: str, admitted: bool) -> None:
    """Names of either set, statuses and types may be listed, in any case, beside `native`."""
    assert EventSelection.of(words).admits(kind=kind, status=status, names=_NAMES) is admitted


def test_every_unknown_word_is_told_with_what_was_meant() -> None:
    """A word that names no event is a mistake, and all of them are told at once."""
    assert unknown_events(["native", "Message Snet", "xyz", "UNDELIVERED"]) == [
        "unknown event Message Snet (did you mean Message Sent?)",
        "unknown event xyz (give native, all, or event names, statuses or types)",
        "unknown event UNDELIVERED (did you mean DELIVERED?)",
    ]
    with pytest.raises(ValueError, match=r"Snet.*; .*xyz"):
        EventSelection.of(["Message Snet", "xyz"])
