"""Patterns as ECMA 262 has them: what is legal, what is refused and how it is called, and that the meaning stays."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator, RegexOptions

from slhf_server.models.structured_output.patterns import spelled_out


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern, spelled out, is found in the text by the engine that validates."""
    return Draft202012Validator({"pattern": spelled_out(pattern)}, pattern_options=RegexOptions()).is_valid(text)


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        (r"^\p{L}+$", "Köln", "K2"),
        (r"^\p{Script=Greek}$", "λ", "l"),
        (r"^(?<year>\d{4})$", "2026", "٢٠٢٦"),
        (r"^(?<a>x)|(?<a>y)$", "y", "z"),
        (r"^\cA$", "\x01", "cA"),
        ("^[^]$", "\n", ""),
        ("a|[]", "a", "b"),
        (r"^[\b]\0$", "\x08\0", "b0"),
        (r"^\x41\u0042\u{1F600}\ud83d\ude00$", "AB😀😀", "AB"),
        (r"^[\u{1F600}-\u{1F64F}]$", "😀", "a"),
        ("^[[a]]$", "a]", "a"),
        ("^[a&&b]$", "&", "c"),
        (r"^[\w--\d]$", "-", "+"),
        (r"^[\d-x]$", "-", "a"),
        ("^[a-]$", "-", "b"),
        ("^[-a]$", "-", "b"),
        ("^{.*}$", "{a}", "a"),
        (r"^\/\-\.\$$", "/-.$", "/--$"),
        (r"^[a-z\_\-]+\_\é\名$", "a_-_é名", "a-é名"),
        ("^a b#c~$", "a b#c~", "ab#c~"),
        ("^.$", "é", "\u2028"),
        (r"^\s$", "\ufeff", "\x85"),
        (r"^\W\D\S$", "éé\x85", "a1 "),
        ("^(?:a|b){2,3}?$", "aba", "a"),
        ("^(?i:a)b$", "Ab", "AB"),
        ("^a$|^b$", "b", "ab"),
    ],
)
def test_a_legal_pattern_means_what_ecma_262_says(pattern: str, found: str, not_found: str) -> None:
    assert matches(pattern, found)
    assert not matches(pattern, not_found)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)b", "look-around"),
        ("a(?!b)", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-reference"),
        (r"(?<a>b)\k<a>", "back-reference"),
        ("(?P<x>a)", "Python"),
        ("(?P=x)", "Python"),
        ("(?i)a", "flags"),
        ("(?x) a", "flags"),
        ("(?>a)", "group"),
        ("(?#a)", "group"),
        ("(?(1)a|b)", "group"),
        ("a{1,3}+", "repeats"),
        ("a++", "repeats"),
        ("a**", "repeats"),
        ("*a", "repeats"),
        ("^*", "repeats"),
        ("(|*)", "repeats"),
        ("a{3,1}", "repeats"),
        ("a{,3}", "ECMA 262"),
        (r"\Aa\Z", "ECMA 262"),
        (r"\z", "ECMA 262"),
        (r"\a", "ECMA 262"),
        (r"\pL", "ECMA 262"),
        (r"\01", "ECMA 262"),
        (r"\x4", "ECMA 262"),
        ("\\", "ECMA 262"),
        (r"[\q]", "ECMA 262"),
        (r"[\1]", "back-reference"),
        ("[z-a]", "out of order"),
        (r"\ud83d", "no character"),
        (r"\u{110000}", "no character"),
        ("(a", "close"),
        ("a)", "close"),
        ("[a", "close"),
    ],
)
def test_what_is_no_pattern_of_ecma_262_is_called_by_its_name(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spelled_out(pattern)


def test_a_long_pattern_takes_time_in_proportion() -> None:
    """And no recursion: 100,000 groups in each other are read."""
    assert len(spelled_out("(" * 100_000 + "a" + ")" * 100_000)) == 200_001


ATOMS = st.sampled_from(
    [*"abc-&~# ]}", "[a-c]", "[^ab]", "[ab-]", r"\d", r"\w", r"[\d_]", r"\.", r"\[", r"\x61", r"\n"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}?"])).map(lambda of: f"({of[0]}){of[1]}"),
        inner.map(lambda one: f"^{one}$"),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text(st.sampled_from("abcx1_-&~# ]}.["), max_size=6))
def test_where_python_means_the_same_so_do_we(pattern: str, text: str) -> None:
    assert matches(pattern, text) == (re.search(pattern, text, re.ASCII) is not None)
