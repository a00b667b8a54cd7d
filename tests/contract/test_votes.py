"""What a vote compares where its request does not say (docs/api.md, "Votes and preference pairs")."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from slhf import Client
from slhf.errors import APIError
from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.contract.test_selection import by, writes
from tests.server.models.judges.canned import Canned, canned

ASK: list[Any] = [{"role": "user", "content": "what is it"}]


@pytest.fixture
def rewards() -> Iterator[Canned]:
    """A judge to which a longer text is better."""
    with canned(reward=len) as server:
        yield server


def declining(serve: Serve, rewards: Canned, folder: Path, *texts: str) -> str:
    """A server whose judge finds none of these rounds better than the draft `mine`."""
    return serve(FakeEngine(writes(*texts)), verdicts_file=str(folder / "v.db"), **by(rewards, select="judge"))


def test_where_the_judge_chose_the_draft_a_vote_compares_it_with_the_latest_round(
    serve: Serve, rewards: Canned, tmp_path: Path
) -> None:
    with Client(declining(serve, rewards, tmp_path, "ab", "a")) as client:
        answer = client.refine("what is it", draft="mine", rounds=2)
        assert (answer.output, answer.refinement.returned_round, answer.refinement.rounds_run) == ("mine", 0, 2)
        said = client.vote(answer.id, "b")
        assert (said.a, said.b) == (0, 2)
        assert client.vote(answer.id, "a", b=1).b == 1
        votes = client.shadow("fake").by["source"]["vote"]
        assert (votes.wins, votes.losses) == (1, 1)


def test_a_round_without_gain_is_the_latest(serve: Serve, rewards: Canned, tmp_path: Path) -> None:
    with Client(declining(serve, rewards, tmp_path, "a")) as client:
        answer = client.refine("what is it", draft="mine", rounds=4, stop_when=["no_gain"])
        assert (answer.refinement.stop_reason, answer.refinement.rounds_run) == ("no_gain", 1)
        assert client.vote(answer.id, "a").b == 1


def test_the_latest_round_is_one_with_another_text(serve: Serve, rewards: Canned, tmp_path: Path) -> None:
    """Its last round wrote the draft again."""
    with Client(declining(serve, rewards, tmp_path, "a", "mine")) as client:
        answer = client.refine("what is it", draft="mine", rounds=2)
        assert answer.refinement.returned_round == 0
        assert client.vote(answer.id, "a").b == 1


def test_a_chat_whose_answer_is_the_draft_can_be_voted_on(serve: Serve, rewards: Canned, tmp_path: Path) -> None:
    url = declining(serve, rewards, tmp_path, "a")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk, Client(url) as client:
        more: Any = {"extra_body": {"refine": {"draft": "mine", "rounds": 1}}}
        answer = sdk.chat.completions.create(model="fake", messages=ASK, **more)
        assert answer.choices[0].message.content == "mine"
        assert client.vote(answer.id, "tie").b == 1


@pytest.mark.parametrize(("text", "lost"), [("no number", "numbers"), ("it is 42", None)])
def test_a_round_that_left_the_draft_as_it_was_is_not_compared(
    serve: Serve, tmp_path: Path, text: str, lost: str | None
) -> None:
    keeps = {"fake": {"keep": ["numbers"]}}
    with Client(serve(FakeEngine(writes(text)), verdicts_file=str(tmp_path / "v.db"), models=keeps)) as client:
        answer = client.refine("q", draft="it is 42", rounds=1)
        assert [one.lost for one in answer.refinement.rounds] == [None, lost]
        refused = refusal(client, answer.id)
    assert (refused.status, refused.param) == (400, "b")
    assert "rounds 0 and 1 are the same text" in str(refused)


def test_a_draft_that_the_judge_kept_because_the_round_was_the_same_is_not_compared(
    serve: Serve, rewards: Canned, tmp_path: Path
) -> None:
    with Client(declining(serve, rewards, tmp_path, "mine")) as client:
        refused = refusal(client, client.refine("what is it", draft="mine", rounds=1).id)
    assert (refused.status, refused.param) == (400, "b")
    assert "rounds 0 and 1 are the same text" in str(refused)


@pytest.mark.parametrize("shadow", [False, True])
def test_an_answer_without_rounds_is_a_400_that_says_so(
    serve: Serve, rewards: Canned, tmp_path: Path, shadow: bool
) -> None:
    mode: dict[str, Any] = {"shadow": {"judge": "house", "share": 0.001}, "judge": None} if shadow else {}
    url = serve(FakeEngine(writes("a")), verdicts_file=str(tmp_path / "v.db"), **by(rewards, **mode))
    with Client(url) as client:
        answer = client.refine("what is it", draft="mine", rounds=1 if shadow else 0)
        assert answer.refinement.stop_reason == ("shadowed" if shadow else "disabled")
        for more in ({}, {"b": 1}):
            refused = refusal(client, answer.id, **more)
            assert (refused.status, refused.param) == (400, "id")
            assert "has no round but its draft" in str(refused)


def test_an_answer_without_rounds_may_be_followed_by_one_with_rounds_of_the_same_id(
    serve: Serve, tmp_path: Path
) -> None:
    url = serve(FakeEngine(writes("a")), verdicts_file=str(tmp_path / "v.db"))
    for rounds, status in ((0, 400), (1, 200), (0, 400)):
        body = {"prompt": "q", "draft": "mine", "rounds": rounds}
        answer = httpx2.post(f"{url}/v1/refine", json=body, headers={"X-Request-Id": "same"}).raise_for_status()
        voted = httpx2.post(f"{url}/v1/votes", json={"id": answer.json()["id"], "vote": "b"})
        assert voted.status_code == status, voted.text


def refusal(client: Client, refinement: str, **more: Any) -> APIError:
    with pytest.raises(APIError) as caught:
        client.vote(refinement, "b", **more)
    return caught.value
