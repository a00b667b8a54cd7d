"""Shadow mode as clients and operators meet it: drafts at once, refinements for nobody, a report."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from slhf.verdicts import ShadowReport
from slhf_server.app import create_app
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from tests.conftest import Serve
from tests.server.conftest import Play, eventually
from tests.server.verdicts.judged import judging_engine, shadowed

CALL = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


def refine(url: str, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "what is it", **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def report(url: str) -> ShadowReport:
    return ShadowReport.model_validate(httpx2.get(f"{url}/v1/shadow/fake").raise_for_status().json())


def counted(url: str, metric: str, *labels: str) -> float:
    """The sum of a metric's samples that have these labels' values."""
    found = re.findall(rf"^{metric}\{{(.*)\}} (\S+)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE)
    return sum(float(value) for names, value in found if all(f'"{label}"' in names for label in labels))


def test_a_leaders_draft_is_the_answer_at_once_and_its_refinement_is_judged_for_nobody(
    serve: Serve, tmp_path: Path
) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path))
    answer = refine(url)
    told = answer["refinement"]
    assert (answer["output"], told["applied"], told["stop_reason"]) == ("draft of: what is it", False, "shadowed")
    assert (told["rounds_requested"], told["rounds_run"], told["returned_round"]) == (2, 0, 0)
    assert eventually(lambda: report(url).n == 1)
    found = report(url)
    assert (found.wins, found.ties, found.losses, found.win_rate, found.consistency) == (1, 0, 0, 1.0, 1.0)
    assert found.by["draft_source"]["leader"].wins == found.by["source"]["shadow"].wins == 1
    assert found.spent.refine_tokens > 0
    assert found.spent.judge_tokens > 0
    assert (found.decision, found.ended) == ("undecided", None)


def test_a_clients_draft_comes_back_byte_for_byte_and_costs_nothing(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path))
    answer = refine(url, draft=" as it\tis \n", rounds=3)
    assert answer["output"] == " as it\tis \n"
    assert answer["usage"]["total_tokens"] == 0
    assert answer["refinement"]["rounds_requested"] == 3
    assert eventually(lambda: report(url).by["draft_source"].get("client") is not None)


def test_a_stream_shows_the_draft_as_the_answer(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        ask: Any = [{"role": "user", "content": "what is it"}]
        chunks = [*sdk.chat.completions.create(model="fake", messages=ask, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "draft of: what is it"
    assert eventually(lambda: report(url).n == 1)


def test_no_rounds_asked_for_are_no_shadow(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path))
    assert refine(url, rounds=0)["refinement"]["stop_reason"] == "disabled"
    refine(url)
    assert eventually(lambda: report(url).n == 1)
    assert counted(url, "slhf_shadow_total") == 1


def test_the_share_is_chosen_by_the_requests_id(serve: Serve, tmp_path: Path) -> None:
    """The first 64 bits of the SHA-256 of MODEL:ID, as docs/api.md says, are below the share."""
    url = serve(judging_engine(), **shadowed(tmp_path, share=0.5))
    ids = [f"request-{number}" for number in range(16)]
    chosen = [
        one for one in ids if int.from_bytes(hashlib.sha256(f"fake:{one}".encode()).digest()[:8], "big") < 0.5 * 2**64
    ]
    assert 0 < len(chosen) < 16
    for one in ids:
        refine(url, {"X-Request-Id": one})
    assert eventually(lambda: report(url).n == len(chosen))
    assert counted(url, "slhf_shadow_total") == len(chosen)


def test_of_what_is_left_out_the_reason_is_counted(serve: Serve, tmp_path: Path) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return [CALL] if turns[0].text == "call" else improve(turns)

    url = serve(judging_engine(reply=reply), **shadowed(tmp_path))
    refine(url, {"Cache-Control": "max-age=0, No-Store"})
    refine(url, draft="x" * 40_000)
    refine(url, draft=" \n")
    refine(url, max_total_tokens=8)
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    body = {"messages": [{"role": "user", "content": "call"}], "tools": tools}
    assert httpx2.post(f"{url}/v1/chat/completions", json=body).json()["refinement"]["stop_reason"] == "tool_calls"
    for reason in ("no_store", "too_long", "blank", "token_budget", "tool_calls"):
        assert counted(url, "slhf_shadow_total", "skipped", reason) == 1, reason
    assert report(url).n == 0


@pytest.mark.parametrize(
    ("limit", "word"), [({"verdicts": 2}, "verdicts"), ({"tokens": 60}, "tokens"), ({"days": 1e-9}, "days")]
)
def test_it_ends_by_its_limits_and_clients_go_on_getting_drafts(
    serve: Serve, tmp_path: Path, limit: dict[str, float], word: str
) -> None:
    url = serve(judging_engine(), **shadowed(tmp_path, **limit))
    for _ in range(6):
        assert refine(url)["refinement"]["stop_reason"] == "shadowed"
        assert eventually(lambda: counted(url, "slhf_shadow_queue") == 0)
    assert eventually(lambda: report(url).ended == word)
    assert counted(url, "slhf_shadow_total", "skipped", "ended") > 0
    if word == "verdicts":
        assert report(url).n == 2


def test_it_goes_on_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    for number in (1, 2):
        url = serve(judging_engine(), **shadowed(tmp_path))
        refine(url)
        assert eventually(lambda: report(url).n == number)  # noqa: B023  asked at once
        assert counted(url, "slhf_win_rate_low") == report(url).interval[0]


@pytest.mark.parametrize(
    ("choice", "wins", "ties", "losses", "abstained"),
    [
        (lambda a, b: "B" if a.count("better") > b.count("better") else "A", 0, 0, 1, 0),
        (lambda a, b: "A", 0, 1, 0, 0),
        (lambda a, b: "Neither.", 0, 0, 0, 1),
    ],
    ids=["the draft wins", "the first one always", "no letter"],
)
def test_what_the_judge_says_in_both_orders_is_what_counts(
    serve: Serve, tmp_path: Path, choice: Any, wins: int, ties: int, losses: int, abstained: int
) -> None:
    url = serve(judging_engine(choice), **shadowed(tmp_path))
    refine(url)
    assert eventually(lambda: counted(url, "slhf_verdicts_total") == 1)
    found = report(url)
    assert (found.wins, found.ties, found.losses, found.abstained) == (wins, ties, losses, abstained)
    assert found.n == wins + ties + losses


def test_a_refinement_that_changes_nothing_is_a_tie_that_nobody_is_asked_about(serve: Serve, tmp_path: Path) -> None:
    engine = judging_engine(reply=lambda turns: turns[-2].text if len(turns) > 2 else "draft")
    url = serve(engine, **shadowed(tmp_path))
    refine(url)
    assert eventually(lambda: report(url).ties == 1)
    assert report(url).spent.judge_tokens == 0
    assert counted(url, "slhf_shadow_total", "judged", "unchanged") == 1


def test_what_fails_in_the_shadow_reaches_no_client_and_is_counted(serve: Serve, tmp_path: Path) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return EngineFailed("boom") if len(turns) > 2 and turns[0].text == "fail" else improve(turns)

    url = serve(judging_engine(lambda a, b: EngineFailed("no judge"), reply), **shadowed(tmp_path))
    assert refine(url, prompt="fail", on_error="fail")["output"] == "draft of: fail"
    assert refine(url, prompt="fail")["output"] == "draft of: fail"
    assert refine(url)["output"] == "draft of: what is it"
    assert eventually(lambda: counted(url, "slhf_shadow_total", "failed") == 3)
    assert counted(url, "slhf_shadow_total", "failed", "refinement") == 1
    assert counted(url, "slhf_shadow_total", "failed", "error") == 1
    assert counted(url, "slhf_shadow_total", "failed", "judge") == 1
    assert report(url).spent.refine_tokens > 0


def test_a_refinement_that_fails_in_the_shadow_is_paid_for_all_the_same(serve: Serve, tmp_path: Path) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return EngineFailed("boom") if turns[-2].text.startswith("better") else improve(turns)

    url = serve(judging_engine(reply=reply), **shadowed(tmp_path))
    refine(url, draft="mine", on_error="fail")
    assert eventually(lambda: counted(url, "slhf_shadow_total", "failed", "refinement") == 1)
    assert eventually(lambda: report(url).spent.refine_tokens > 0)


def test_the_follower_runs_after_everybody_elses_in_the_shadow_alone(serve: Serve, tmp_path: Path) -> None:
    engine = judging_engine()
    url = serve(engine, **shadowed(tmp_path))
    refine(url, seed=7, instruction="Be brief.")
    assert eventually(lambda: report(url).n == 1)
    drafted, *judged = [sampling.priority for _, sampling in engine.leader.calls]
    latest = 2**31 - 1  # that a client may ask for
    assert drafted == 0
    assert min(judged) > latest
    assert [sampling.priority - 1 > latest for _, sampling in engine.follower.calls] == [True] * 2  # a step before
    assert all(turns[-1].text.endswith("Be brief.") for turns, _ in engine.follower.calls)


def test_the_judge_is_told_of_a_requests_instruction(serve: Serve, tmp_path: Path) -> None:
    engine = judging_engine()
    url = serve(engine, **shadowed(tmp_path), profiles={"brief": {"instruction": "Be brief."}})
    refine(url, profile="brief")
    assert eventually(lambda: report(url).n == 1)
    _, *judged = [turns[-1].text for turns, _ in engine.leader.calls]
    assert ["user: what is it\n\nBe brief.\n" in text for text in judged] == [True, True]


def test_texts_are_kept_where_the_operator_wants_them_alone(serve: Serve, tmp_path: Path) -> None:
    for log_content, kept in ((False, 0), (True, 1)):
        url = serve(judging_engine(), log_content=log_content, **shadowed(tmp_path))
        refine(url)
        assert eventually(lambda: report(url).n == kept + 1)  # noqa: B023
        page = httpx2.get(f"{url}/v1/preferences/fake").json()
        assert (len(page["data"]), page["without_texts"], page["has_more"]) == (kept, 1, False)
    (pair,) = page["data"]
    assert pair["chosen"] == "better better draft of: what is it"
    assert pair["rejected"] == "draft of: what is it"
    assert pair["messages"] == [{"role": "user", "content": "what is it"}]


def test_a_shadow_needs_a_judge_that_there_is() -> None:
    with pytest.raises(SettingsError, match=r"models\.fake\.shadow\.judge: 'other' is no judge; there is house"):
        Settings(judges={"house": {"engine": "own"}}, models={"fake": {"shadow": {"judge": "other"}}})


@pytest.mark.parametrize("with_a_shadow", [True, False])
def test_a_file_of_verdicts_that_cannot_be_used_keeps_the_server_from_serving(
    tmp_path: Path, play: Play, with_a_shadow: bool
) -> None:
    (tmp_path / "verdicts.db").write_text("not a database, but long enough" * 20)
    settings = shadowed(tmp_path)
    settings = settings if with_a_shadow else {"verdicts_file": settings["verdicts_file"]}
    app = create_app(Settings(**settings), FakeEngine().open)

    async def scenario() -> None:
        async with app.router.lifespan_context(app):
            await app.state.service.loading()

    play(scenario())
    failure = app.state.service.failure
    assert isinstance(failure, SettingsError)
    assert re.match(r"verdicts_file .*/verdicts\.db: file is not a database", str(failure))
