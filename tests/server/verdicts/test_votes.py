"""Votes of people on the rounds of a refinement, by its id."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from slhf import AsyncClient, Client, RefineResponse
from slhf.errors import APIError
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from slhf_server.verdicts import ballots, store
from tests.conftest import Serve, running
from tests.server.conftest import Play


def refined(url: str, key: str = "", headers: dict[str, str] | None = None, **body: Any) -> RefineResponse:
    with_key = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"prompt": "what is it", "draft": "d", "rounds": 2} | body
    answer = httpx2.post(f"{url}/v1/refine", json=body, headers=with_key | (headers or {}))
    return RefineResponse.model_validate(answer.raise_for_status().json())


def vote(url: str, key: str = "", **body: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.post(f"{url}/v1/votes", json=body, headers=headers)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """For tests that do not count."""
    settings = Settings(verdicts_file=tmp_path_factory.mktemp("verdicts") / "v.db")
    with running(create_app(settings, FakeEngine().open)) as base:
        yield base


@pytest.fixture
def url(serve: Serve, tmp_path: Path) -> str:
    return serve(verdicts_file=str(tmp_path / "v.db"))


@pytest.mark.parametrize(
    ("given", "counts"), [("a", (0, 0, 1)), ("b", (1, 0, 0)), ("tie", (0, 1, 0)), ("both_bad", (0, 1, 0))]
)
def test_a_vote_compares_the_draft_with_the_answer(url: str, given: Any, counts: tuple[int, int, int]) -> None:
    with Client(url) as client:
        answer = client.refine("what is it", draft="d", rounds=2)
        said = client.vote(answer.id, given)
        assert (said.id, said.model, said.vote, said.a, said.b) == (answer.id, "fake", given, 0, 2)
        found = client.shadow("fake")
        votes = found.by["source"]["vote"]
        assert (votes.wins, votes.ties, votes.losses) == counts
        assert (found.n, found.judge, found.share, found.decision) == (0, None, None, "undecided")


def test_the_asynchronous_client_does_the_same(serve: Serve, tmp_path: Path, play: Play) -> None:
    url = serve(verdicts_file=str(tmp_path / "v.db"), log_content=True)

    async def scenario() -> None:
        async with AsyncClient(url) as client:
            answer = await client.refine("what is it", draft="d", rounds=2)
            assert (await client.vote(answer.id, "a", a=1, b=2)).b == 2
            assert (await client.shadow("fake")).by["source"]["vote"].losses == 1
            first = await client.preferences("fake")
            assert [(pair.id, pair.chosen) for pair in first.data] == [(answer.id, "better d")]
            assert (await client.preferences("fake", after=first.last_id)).data == []

    play(scenario())


def test_of_any_two_rounds_the_later_one_is_the_refined_one(url: str) -> None:
    answer = refined(url)
    assert vote(url, id=answer.id, vote="a", a=2, b=1).json()["vote"] == "a"
    assert httpx2.get(f"{url}/v1/shadow/fake").json()["by"]["source"]["vote"]["wins"] == 1


def test_the_last_vote_counts(url: str) -> None:
    answer = refined(url)
    for body in ({"vote": "a"}, {"vote": "tie", "a": 2, "b": 0}, {"vote": "b"}):
        assert vote(url, id=answer.id, **body).status_code == 200
    votes = httpx2.get(f"{url}/v1/shadow/fake").json()["by"]["source"]["vote"]
    assert (votes["n"], votes["wins"]) == (1, 1)


def test_the_id_of_a_chats_answer_will_do(shared: str) -> None:
    with openai.OpenAI(base_url=f"{shared}/v1", api_key="none") as sdk:
        answer = sdk.chat.completions.create(model="fake", messages=[{"role": "user", "content": "what is it"}])
    assert vote(shared, id=answer.id, vote="b").status_code == 200


def test_a_key_votes_on_its_own_refinements_alone(serve: Serve, tmp_path: Path) -> None:
    url = serve(verdicts_file=str(tmp_path / "v.db"), api_keys="me=mine,you=yours", log_content=True)
    answer = refined(url, "mine")
    strange = vote(url, "yours", id=answer.id, vote="b")
    unknown = vote(url, "yours", id="refine-unknown", vote="b")
    assert strange.status_code == unknown.status_code == 404
    assert strange.json()["error"]["code"] == "refinement_not_found"
    assert strange.json()["error"] == unknown.json()["error"]
    assert vote(url, "mine", id=answer.id, vote="b").status_code == 200
    for key, pairs in (("mine", 1), ("yours", 0)):
        page = httpx2.get(f"{url}/v1/preferences/fake", headers={"Authorization": f"Bearer {key}"}).json()
        assert len(page["data"]) == pairs


def test_another_keys_refinement_of_the_same_id_takes_no_vote_away(serve: Serve, tmp_path: Path) -> None:
    url = serve(verdicts_file=str(tmp_path / "v.db"), api_keys="me=mine,you=yours")
    for key, rounds in (("mine", 1), ("yours", 2)):
        refined(url, key, {"X-Request-Id": "same"}, rounds=rounds)
    for key, returned in (("mine", 1), ("yours", 2)):
        answer = vote(url, key, id="refine-same", vote="b")
        assert (answer.status_code, answer.json().get("b")) == (200, returned)


def test_what_cannot_be_voted_on_is_a_404(serve: Serve, tmp_path: Path) -> None:
    """An unknown id, and an answer that its client wanted nothing kept of, with rounds or without."""
    url = serve(verdicts_file=str(tmp_path / "v.db"))
    secret = [refined(url, headers={"Cache-Control": "no-store"}, rounds=rounds).id for rounds in (0, 1)]
    for found in ("refine-1", *secret):
        assert vote(url, id=found, vote="a").status_code == 404
    with Client(url) as client, pytest.raises(APIError) as caught:
        client.vote("refine-1", "a")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "refinement_not_found", "id")
    assert not (tmp_path / "v.db").exists()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"vote": "b", "b": 3}, "b"),
        ({"vote": "b", "a": 9}, "a"),
        ({"vote": "b", "a": 1, "b": 1}, "b"),
        ({"vote": "b", "a": -1}, "a"),
        ({"vote": "better"}, "vote"),
        ({"vote": "b", "c": 1}, "c"),
        ({}, "vote"),
    ],
)
def test_a_vote_that_makes_no_sense_is_a_400_that_names_the_key(shared: str, body: dict[str, Any], param: str) -> None:
    answer = vote(shared, id=refined(shared).id, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_file_that_cannot_be_used_is_a_503_and_the_vote_may_be_sent_again(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "_WAIT_S", 0.1)
    url = serve(verdicts_file=str(tmp_path / "v.db"))
    answer = refined(url)
    assert vote(url, id=answer.id, vote="a").status_code == 200
    with closing(sqlite3.connect(tmp_path / "v.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = vote(url, id=answer.id, vote="b")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json()["error"]["code"] == "verdicts_unavailable"
    assert str(tmp_path) not in refused.text
    assert f"{tmp_path}/v.db: database is locked" in caplog.text
    assert vote(url, id=answer.id, vote="b").status_code == 200
    for file in tmp_path.glob("v.db*"):
        file.unlink()
    (tmp_path / "v.db").write_text("not a database, but long enough" * 20)
    for path in ("shadow", "preferences"):
        assert httpx2.get(f"{url}/v1/{path}/fake").json()["error"]["code"] == "verdicts_unavailable"


def test_old_refinements_are_forgotten(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballots, "MOST", 3)
    url = serve(verdicts_file=str(tmp_path / "v.db"))
    ids = [refined(url).id for _ in range(4)]
    assert [vote(url, id=one, vote="b").status_code for one in ids] == [404, 200, 200, 200]
    alone = [refined(url, rounds=0).id for _ in range(4)]
    known = [vote(url, id=one, vote="b").status_code for one in (*ids, *alone)]
    assert known == [404, 200, 200, 200, 404, 400, 400, 400]


def test_pairs_come_in_pages(serve: Serve, tmp_path: Path) -> None:
    url = serve(FakeEngine(), verdicts_file=str(tmp_path / "v.db"), log_content=True)
    for number, choice in enumerate(("b", "a", "tie")):
        assert vote(url, id=refined(url, prompt=f"question {number}").id, vote=choice).status_code == 200
    first = httpx2.get(f"{url}/v1/preferences/fake", params={"limit": 1}).json()
    assert (first["has_more"], first["without_texts"], len(first["data"])) == (True, 0, 1)
    rest = httpx2.get(f"{url}/v1/preferences/fake", params={"after": first["last_id"]}).json()
    assert rest["has_more"] is False
    found = [(pair["messages"][0]["content"], pair["chosen"]) for pair in first["data"] + rest["data"]]
    assert found == [("question 0", "better better d"), ("question 1", "d")]
    for params in ({"limit": 0}, {"limit": 101}, {"after": -1}, {"after": "x"}):
        wrong = httpx2.get(f"{url}/v1/preferences/fake", params=params)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, [*params][0])


@pytest.mark.parametrize("path", ["shadow", "preferences"])
def test_a_model_that_is_not_served_is_a_404(shared: str, path: str) -> None:
    assert httpx2.get(f"{shared}/v1/{path}/other").json()["error"]["code"] == "model_not_found"
