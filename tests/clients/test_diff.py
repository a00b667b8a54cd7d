import io

import pytest
from rich.console import Console
from rich.text import Text

from slhf import RefineRequest, Round
from slhf._diff import added, print_rounds, printable, removed
from tests.clients.fakes import rounds_of


def coloured(text: Text) -> list[str]:
    return [text.plain[span.start : span.end].strip() for span in text.spans]


def test_added_words_stand_out_in_the_text_after() -> None:
    text = added("The sky is blue.", "The clear sky is deep blue.")
    assert text.plain == "The clear sky is deep blue."
    assert coloured(text) == ["clear", "deep"]


def test_removed_words_stand_out_in_the_text_before() -> None:
    text = removed("The clear sky\nis very blue.", "The sky is blue.")
    assert text.plain == "The clear sky\nis very blue."
    assert coloured(text) == ["clear", "very"]


@pytest.mark.parametrize("after", ["a  b\n\nc", " a b c", "a b c\n", "a\tb c"])
def test_white_space_alone_is_no_change_and_is_kept(after: str) -> None:
    text = added("a b c", after)
    assert text.plain == after
    assert coloured(text) == []


@pytest.mark.parametrize(("before", "after"), [("", ""), ("", "a"), ("a", ""), (" ", "\n")])
def test_empty_texts_are_texts(before: str, after: str) -> None:
    assert added(before, after).plain == after
    assert removed(before, after).plain == before


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\r\nc\td\x07\x9b") == "a\ufffd[31mb\nc\td\ufffd\ufffd"


def rounds() -> list[Round]:
    return rounds_of(RefineRequest(prompt="why?", draft="so [bold]it[/bold] is", rounds=2))


def shown(*, terminal: bool, width: int) -> list[str]:
    out = io.StringIO()
    # with a height too: else rich takes a terminal of TERM=dumb for 80 columns, whatever the width
    console = Console(file=out, force_terminal=terminal, width=width, height=25, color_system=None)
    print_rounds(console, rounds())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_rounds_are_side_by_side_where_there_is_room() -> None:
    lines = shown(terminal=True, width=120)
    (row,) = [line for line in lines if "so [bold]it[/bold] is" in line]
    assert row.count("so [bold]it[/bold] is") == 3
    assert "draft (client, duo)" in lines[1]
    assert "round 2 (follower, duo)" in lines[1]


@pytest.mark.parametrize(("terminal", "width"), [(False, 200), (True, 60)])
def test_rounds_are_one_below_the_other_elsewhere(terminal: bool, width: int) -> None:
    assert shown(terminal=terminal, width=width) == [
        "== draft (client, duo)",
        "so [bold]it[/bold] is",
        "",
        "== round 1 (follower, duo)",
        "better so [bold]it[/bold] is",
        "",
        "== round 2 (follower, duo)",
        "better better so [bold]it[/bold] is",
        "",
    ]
