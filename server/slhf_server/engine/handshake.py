"""Asks a vLLM server, before the first request, whether it serves what the settings say."""

from collections.abc import Mapping
from typing import Any

import httpx2
from pydantic import BaseModel, Field, ValidationError

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.settings.endpoints import RemoteEngineSettings
from slhf_server.settings.problem import SettingsError

_SAMPLE = 'The quick brown fox, 1984: naïve café; 你好! {"key": [0.5, -1]}\n\n\tdef f(x):\n        return x ** 2'
_TIMEOUT_S = 60.0
"""A server's first completion may be slow."""


class _Card(BaseModel):
    id: str
    max_model_len: int | None = Field(default=None, gt=0)


class _Cards(BaseModel):
    data: list[_Card]


class _Choice(BaseModel):
    text: str
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


async def handshake(
    label: str, settings: RemoteEngineSettings, encoder: PromptEncoder, client: httpx2.AsyncClient, cards: bytes
) -> int:
    """The server's context length in tokens. `cards` is its answer to `GET models`.

    Raises SettingsError naming the setting that does not fit, and httpx2.HTTPError where the server does not answer.
    """
    where = f"remote_engines.{label}"
    try:
        served = {card.id: card for card in _Cards.model_validate_json(cards).data}
    except ValidationError:
        raise SettingsError(f"{where}.base_url: GET models is answered without a list of models") from None
    for key, name in (("model", settings.model), ("adapter", settings.adapter)):
        if name is not None and name not in served:
            raise SettingsError(f"{where}.{key}: the server does not serve {name!r}, but {', '.join(sorted(served))}")
    length = served[settings.model].max_model_len
    if length is None:
        raise SettingsError(f"{where}.base_url: the server does not tell max_model_len, as vLLM does")
    ids = encoder.encode_text(_SAMPLE)
    await _check_text(where, settings, encoder, client, ids)
    await _check_ids(where, settings, client, ids)
    return length


async def _check_text(
    where: str, settings: RemoteEngineSettings, encoder: PromptEncoder, client: httpx2.AsyncClient, ids: list[int]
) -> None:
    """The server's tokenizer reads our ids as the text that we mean."""
    echo = await _complete(where, settings, client, {"prompt": ids, "echo": True})
    read, meant = ("".join(text.split()) for text in (echo.text, encoder.decode(ids)))
    if not read.startswith(meant):
        raise SettingsError(f"{where}.tokenizer: {settings.tokenizer!r} is not that of {settings.model!r} over there")


async def _check_ids(where: str, settings: RemoteEngineSettings, client: httpx2.AsyncClient, ids: list[int]) -> None:
    priority = {"priority": settings.priority} if settings.priority else {}
    answer = await _complete(where, settings, client, {"prompt": ids, "return_token_ids": True, **priority})
    if not answer.token_ids or answer.prompt_token_ids != ids:
        raise SettingsError(f"{where}.base_url: the server does not give token ids back, as vLLM's return_token_ids do")


async def _complete(
    where: str, settings: RemoteEngineSettings, client: httpx2.AsyncClient, fields: Mapping[str, Any]
) -> _Choice:
    body = {"model": settings.adapter or settings.model, "max_tokens": 1, "temperature": 0, **fields}
    response = await client.post("completions", json=body, timeout=_TIMEOUT_S)
    if response.status_code == 429 or response.status_code >= 500:
        raise httpx2.HTTPStatusError("not yet", request=response.request, response=response)
    try:
        return _Completion.model_validate_json(response.content).choices[0]
    except ValidationError:
        asked = f"POST completions with {', '.join(fields)}"
        raise SettingsError(f"{where}: the server does not answer {asked}: HTTP {response.status_code}") from None
