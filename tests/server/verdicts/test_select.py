"""What a judge said while it chose an answer is kept, too."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from slhf_server.verdicts import store
from tests.conftest import Serve
from tests.server.conftest import eventually
from tests.server.verdicts.judged import judging_engine


def selecting(folder: Path, **more: Any) -> dict[str, Any]:
    model = {"rounds": 2, "judge": "house", "select": "judge"}
    return {
        "log_content": True,
        "verdicts_file": str(folder / "v.db"),
        "judges": {"house": {"engine": "own"}},
        "models": {"fake": model},
    } | more


def wins(url: str) -> int:
    found = httpx2.get(f"{url}/v1/shadow/fake").raise_for_status().json()["by"]["source"]
    return int(found.get("select", {"wins": 0})["wins"])


def test_a_judges_choice_among_rounds_is_kept_with_the_texts_that_it_compared(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **selecting(tmp_path))
    for headers in ({}, {"Cache-Control": "no-store"}):
        answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "what is it"}, headers=headers).json()
        assert answer["refinement"]["selection"]["round"] == 2
    assert eventually(lambda: wins(url) == 2)
    pairs = httpx2.get(f"{url}/v1/preferences/fake").json()["data"]
    assert [(pair["source"], pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("select", "better draft of: what is it", "draft of: what is it"),
        ("select", "better better draft of: what is it", "better draft of: what is it"),
    ]
    assert {pair["id"] for pair in pairs} != {answer["id"]}


def test_without_texts_a_choice_is_in_the_metrics_alone(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **selecting(tmp_path, log_content=False))
    httpx2.post(f"{url}/v1/refine", json={"prompt": "what is it"}).raise_for_status()
    assert 'use="select",verdict="refined"' in httpx2.get(f"{url}/metrics").text
    assert not (tmp_path / "v.db").exists()


def test_the_latest_choices_push_out_older_ones(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_SELECTED", 3)
    url = serve(judging_engine(), **selecting(tmp_path))
    for number in range(4):
        httpx2.post(f"{url}/v1/refine", json={"prompt": f"question {number}"}).raise_for_status()
        assert eventually(lambda: wins(url) == min(3, 2 * number + 2))  # noqa: B023  asked at once


def test_a_file_that_cannot_be_written_holds_up_no_answer(serve: Serve, tmp_path: Path) -> None:
    url = serve(judging_engine(), **selecting(tmp_path))
    (tmp_path / "v.db").write_text("not a database, but long enough" * 20)
    for _ in range(2):
        answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "what is it"})
        assert answer.json()["refinement"]["applied"] is True


def test_the_thoughts_of_a_clients_draft_are_no_part_of_a_pair(serve: Serve, tmp_path: Path) -> None:
    """Neither the Follower nor the judge has seen them."""
    settings = selecting(tmp_path)
    settings["models"]["fake"]["draft_thinks"] = True
    url = serve(judging_engine(), **settings)
    body = {"prompt": "what is it", "draft": "<think>hm</think>mine", "rounds": 1}
    answer = httpx2.post(f"{url}/v1/refine", json=body).json()
    assert httpx2.post(f"{url}/v1/votes", json={"id": answer["id"], "vote": "b"}).status_code == 200
    assert eventually(lambda: wins(url) == 1)
    pairs = httpx2.get(f"{url}/v1/preferences/fake").json()["data"]
    assert {(pair["source"], pair["rejected"]) for pair in pairs} == {("select", "mine"), ("vote", "mine")}
