"""llm: the command line tool and its library, told of the server by extra-openai-models.yaml in its folder.

It has no way to send extra body fields, so no refinement options.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llm
import openai

from tests.sdks.checks import (
    ANSWER,
    BASE_URL,
    BREAK,
    COMPLETION_TOKENS,
    MODEL,
    QUESTION,
    UNKNOWN,
    main,
    raises,
    same_text,
)

MODELS: list[dict[str, Any]] = [
    {"model_id": "slhf", "model_name": MODEL},
    {"model_id": "slhf-unknown", "model_name": UNKNOWN},
    {"model_id": "slhf-responses", "model_name": MODEL, "responses": True},
    {"model_id": "slhf-completions", "model_name": MODEL, "completion": True},
]


def answers_with_usage() -> None:
    response = llm.get_model("slhf").prompt(QUESTION, stream=False)
    assert response.text() == ANSWER
    assert response.usage().output == COMPLETION_TOKENS


def streams_with_usage() -> None:
    response = llm.get_model("slhf").prompt(QUESTION)
    same_text(response)
    assert response.usage().output == COMPLETION_TOKENS


async def answers_asynchronously() -> None:
    assert await llm.get_async_model("slhf").prompt(QUESTION).text() == ANSWER


def continues_a_conversation() -> None:
    conversation = llm.get_model("slhf").conversation()
    assert conversation.prompt("why?").text() == "better draft of: why?"
    assert conversation.prompt(QUESTION).text() == "better better better draft of: why?"  # the fake saw the history


def answers_on_the_command_line() -> None:
    command = [sys.executable, "-m", "llm", "-m", "slhf", "--no-log", QUESTION]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == ANSWER


def names_an_unknown_model() -> None:
    with raises(openai.NotFoundError):
        llm.get_model("slhf-unknown").prompt(QUESTION).text()


def raises_an_error_inside_a_stream() -> None:
    with raises(openai.APIError):
        llm.get_model("slhf").prompt(BREAK).text()


def responds() -> None:
    assert llm.get_model("slhf-responses").prompt(QUESTION, stream=False).text() == ANSWER


def streams_a_response() -> None:
    same_text(llm.get_model("slhf-responses").prompt(QUESTION))


def completes() -> None:
    assert llm.get_model("slhf-completions").prompt(QUESTION, stream=False).text() == ANSWER


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        models = [{**model, "api_base": BASE_URL} for model in MODELS]
        (Path(folder) / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
        main(
            chat=[
                answers_with_usage,
                streams_with_usage,
                answers_asynchronously,
                continues_a_conversation,
                answers_on_the_command_line,
                names_an_unknown_model,
                raises_an_error_inside_a_stream,
            ],
            responses=[responds, streams_a_response],
            completions=[completes],
        )
