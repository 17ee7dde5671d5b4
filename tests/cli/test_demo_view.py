"""The demo's view tells the same in a frame and on a line, with or without colour."""

import io

import pytest

from forwarder.cli.demo_view import Flow, Moment, Paint, Rates, Result, Screen, frame, plain_line, summary

OUT = Flow(title="Courier -> RudderStack", accepted=120, delivered=80, ended=20, waiting=20, resent=4, duplicates=1)
IN = Flow(title="RudderStack -> Courier", accepted=50, delivered=45, ended=5, waiting=0, resent=0, duplicates=0)
PLAIN = Paint(is_on=False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def moment(*, elapsed_s: float = 75.5, is_outage: bool = False) -> Moment:
    """One moment."""
    return Moment(
        elapsed_s=elapsed_s,
        page_url="http://127.0.0.1:8081",
        is_outage=is_outage,
        flows=(OUT, IN),
        rates={OUT.title: (24.4, 20.0), IN.title: (9.0, 9.0)},
        latest=("x" * 300,),
    )


def test_a_frame_shows_flow_backlog_and_outage() -> None:
    """Both routes with their numbers, the page's address, and the state of the data plane."""
    text = "\n".join(frame(moment(is_outage=True), PLAIN))

    for part in ("01:15", "http://127.0.0.1:8081", "Courier -> RudderStack", "24", "120", "80", "20", "####", "DOWN"):
        assert part in text
    assert "\x1b" not in text
    assert "up" in "\n".join(frame(moment(), PLAIN))


def test_a_plain_line_tells_the_same() -> None:
    """One line for pipes: accepted, delivered and waiting of both routes."""
    line = plain_line(moment(is_outage=True))

    assert "accepted 120, delivered 80, waiting 20" in line
    assert "accepted 50, delivered 45, waiting 0" in line
    assert line.endswith("[outage: the data plane answers 503]")
    assert "outage" not in plain_line(moment())


@pytest.mark.parametrize(
    ("lost", "wrong", "is_good"), [(0, (), True), (2, (), False), (0, ("time",), False)], ids=["good", "lost", "wrong"]
)
def test_the_summary_adds_both_routes_up(lost: int, wrong: tuple[str, ...], *, is_good: bool) -> None:
    """Accepted, delivered, duplicates and lost stand in the last line; a loss or a wrong arrival is no success."""
    result = Result(flows=(OUT, IN), lost=lost, waiting=3, wrong=wrong, outages=1)
    lines = summary(result, PLAIN)

    assert lines[-1] == f"accepted 170, delivered 125, duplicates 1, lost {lost}"
    assert result.is_good is is_good
    assert any("still waiting on disk" in line for line in lines)
    assert any("wrong: time" in line for line in lines) is bool(wrong)


def test_colour_is_for_terminals_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR keeps the frame and drops the colour; no terminal, or one too narrow, no frame."""
    assert "\x1b[32m" in Screen(Terminal(), {}).paint("x", "green")
    assert Screen(Terminal(), {"NO_COLOR": "1"}).paint("x", "green") == "x"
    assert Screen(Terminal(), {"NO_COLOR": "1"}).is_live
    assert not Screen(Terminal(), {"TERM": "dumb"}).is_live
    assert not Screen(io.StringIO(), {}).is_live
    monkeypatch.setenv("COLUMNS", "60")
    assert not Screen(Terminal(), {}).is_live


def test_a_terminal_is_redrawn_in_place() -> None:
    """The second frame goes up by the height of the first, and no line is longer than 80 columns."""
    stream = Terminal()
    screen = Screen(stream, {"NO_COLOR": "1"})
    screen.show(moment())
    height = stream.getvalue().count("\n")
    screen.show(moment())

    assert f"\x1b[{height}A" in stream.getvalue()
    assert max(len(line.removeprefix("\x1b[2K")) for line in stream.getvalue().split("\n")) <= 80
    screen.say("done")
    screen.show(moment())
    assert stream.getvalue().count(f"\x1b[{height}A") == 1


def test_without_a_terminal_a_line_comes_every_two_seconds() -> None:
    """Logs are not flooded."""
    stream = io.StringIO()
    screen = Screen(stream, {})
    for tenth in range(41):
        screen.show(moment(elapsed_s=tenth / 10))

    assert stream.getvalue().count("\n") == 3


def test_rates_are_those_of_the_last_two_seconds() -> None:
    """Counts that grow evenly give their slope, whatever came before the window."""
    rates = Rates()
    assert rates.at(0.0, {"a": (0, 0)}) == {"a": (0.0, 0.0)}
    rates.at(10.0, {"a": (1000, 0)})
    rates.at(11.0, {"a": (1010, 5)})

    assert rates.at(12.0, {"a": (1020, 10)}) == {"a": (10.0, 5.0)}
