"""A round that lost something, beside what else a request may ask for (docs/api.md, "What a round must not lose")."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve

ASK: list[Any] = [{"role": "user", "content": "what is it"}]
FENCED = 'Here it is:\n\n```json\n{"a": 42}\n```\n'


def says(*texts: str) -> Callable[[Sequence[Turn]], str]:
    """A reply that says these one after the other, and the last of them again and again."""
    left = list(texts)
    return lambda turns: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("streams", [False, True])
def test_a_draft_that_is_not_what_response_format_asks_for_is_not_gone_back_to(serve: Serve, streams: bool) -> None:
    """The commonest draft of JSON stands in a fence, which no valid answer keeps."""
    url = serve(FakeEngine(says('{"a": 42}')))
    body = {"response_format": {"type": "json_object"}, "extra_body": {"refine": {"draft": FENCED, "rounds": 2}}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        if streams:
            chunks: Any = sdk.chat.completions.create(model="fake", messages=ASK, stream=True, **body)  # type: ignore[call-overload]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            text = sdk.chat.completions.create(model="fake", messages=ASK, **body).choices[0].message.content  # type: ignore[call-overload]
    assert json.loads(text) == {"a": 42}


def test_a_draft_that_is_valid_stays_where_a_valid_round_lost_something(serve: Serve) -> None:
    url = serve(FakeEngine(says('{"a": 1}')), models={"fake": {"keep": ["numbers"]}})
    body = {"messages": ASK, "response_format": {"type": "json_object"}, "refine": {"draft": '{"a": 42}', "rounds": 1}}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"a": 42}
    assert answer["refinement"]["applied"] is False


def test_a_lost_round_is_no_unchanged_one_so_the_next_goes_on(serve: Serve) -> None:
    url = serve(FakeEngine(says("no number", "it is 42 indeed")), models={"fake": {"keep": ["numbers"]}})
    body = {"prompt": "q", "draft": "it is 42", "rounds": 3, "stop_when_unchanged": True}
    answer = httpx2.post(f"{url}/v1/refine", json=body).json()
    assert [one["lost"] for one in answer["refinement"]["rounds"]] == [None, "numbers", None, None]
    assert (answer["output"], answer["refinement"]["stop_reason"]) == ("it is 42 indeed", "rounds_done")


@pytest.mark.parametrize(("wish", "output"), [(None, "one two"), ("Use a comma.", "one, two")])
def test_a_round_keeps_what_the_prompt_asks_for_unless_an_instruction_wants_something_else(
    serve: Serve, wish: str | None, output: str
) -> None:
    url = serve(FakeEngine(says("one, two")), models={"fake": {"keep": ["instructions"]}})
    body = {"prompt": "Count. Do not use any commas.", "draft": "one two", "rounds": 1, "instruction": wish}
    answer = httpx2.post(f"{url}/v1/refine", json=body).json()
    assert answer["output"] == output
    assert answer["refinement"]["rounds"][1]["lost"] == (None if wish else "instructions")
    metrics = httpx2.get(f"{url}/metrics").text
    assert ('slhf_rounds_lost_total{model_name="fake",part="instructions"} 1.0' in metrics) == (wish is None)


def test_a_draft_returned_unchanged_after_a_lost_round_stops(serve: Serve) -> None:
    url = serve(FakeEngine(says("no number", "it is 42")), models={"fake": {"keep": ["numbers"]}})
    body = {"prompt": "q", "draft": "it is 42", "rounds": 4, "stop_when_unchanged": True}
    report = httpx2.post(f"{url}/v1/refine", json=body).json()["refinement"]
    assert (report["stop_reason"], report["rounds_run"]) == ("unchanged", 2)
