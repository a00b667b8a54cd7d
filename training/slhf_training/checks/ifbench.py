"""IFBench's kinds of instruction (Pyatkin et al. 2025, arXiv 2507.02833), by its authors' checkers.

The package if-verifiable (the extra `ifbench`) holds them as Allen AI published them, but for a few guards.
"""

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

_GROUPS = frozenset({"count", "custom", "format", "ratio", "repeat", "sentence", "words"})
"""Of kinds, before the colon. IFEval has none of them."""
_PUNKT = "tokenizers/punkt_tab"
_DATA: Mapping[str, tuple[str, ...]] = {
    "format:title_case": (_PUNKT,),
    "ratio:stop_words": ("corpora/stopwords",),
    "words:keywords_specific_position": (_PUNKT,),
    "words:start_verb": (_PUNKT, "taggers/averaged_perceptron_tagger_eng"),
    "words:words_position": (_PUNKT,),
}
"""What of NLTK's data a kind needs; the others need none."""


def obstacle(kind: str, arguments: Mapping[str, Any]) -> str | None:
    """Why an instruction cannot be checked here; None: it can."""
    unknown = "no program here knows it"
    if kind.partition(":")[0] not in _GROUPS:
        return unknown
    try:
        known = _checkers()
    except ModuleNotFoundError as exc:
        package = str(exc.name).partition(".")[0]
        return f"the package {package} is not installed: pip install 'slhf-training[ifbench]'"
    if kind not in known:
        return unknown
    if absent := [place.partition("/")[2] for place in _DATA.get(kind, ()) if not _is_here(place)]:
        return f"nltk has no {', '.join(absent)}: python -m nltk.downloader {' '.join(absent)}"
    return _misfit(known[kind](kind), arguments)


def follows(kind: str, answer: str, arguments: Mapping[str, Any]) -> bool:
    """Of a kind without an obstacle, and an answer that is not blank."""
    checker = _checkers()[kind](kind)
    checker.build_description(**arguments)
    try:
        return bool(checker.check_following(answer))
    except IndexError:  # a checker looked for a word or a letter that the answer does not have
        return False


@cache
def _checkers() -> Mapping[str, Any]:
    """Their classes by kind. Raises ModuleNotFoundError.

    The package's import downloads data that NLTK lacks. It may not: what is checked would depend on the network.
    """
    import nltk

    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        from if_verifiable.ifbench import INSTRUCTION_DICT
    finally:
        nltk.download = download
    checkers: Mapping[str, Any] = INSTRUCTION_DICT
    return checkers


def _is_here(place: str) -> bool:
    import nltk

    try:
        nltk.data.find(place)
    except LookupError:
        return False
    return True


def _misfit(checker: Any, arguments: Mapping[str, Any]) -> str | None:
    """Checkers draw arguments that are missing, and some take 0 for missing: no two runs would ask the same."""
    before = random.getstate()
    try:
        checker.build_description(**arguments)
        has_drawn = random.getstate() != before
    except (TypeError, ValueError) as exc:
        return f"its arguments do not fit: {exc}"
    finally:
        random.setstate(before)
    used = checker.get_instruction_args() or {}
    drawn = [name for name, value in used.items() if not arguments.get(name) or arguments[name] != value]
    return f"its checker draws {', '.join(drawn)} by lot, as if it were not given" if has_drawn else None
