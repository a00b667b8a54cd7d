"""
title: SLHF refinement
author: the slhf maintainers
description: Each answer is improved by a refinement server before it is kept; where that fails it stays as it is.
required_open_webui_version: 0.12.0
requirements: httpx2
version: 0.1.0
license: Apache-2.0
"""

# A filter for Open WebUI (docs/gateways.md): this file is pasted as it is under Admin Panel, Functions. It needs
# nothing of slhf. The lines above are read by Open WebUI's loader, one key a line; httpx2 is there already.

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from pydantic import BaseModel, Field

GRACE_S = 1.0  # seconds after the deadline in which the server may still send the best text that it has finished
THOUGHTS = re.compile(r'(?:\s*<details type="reasoning"[^>]*>.*?</details>\s*)*', re.DOTALL)

log = logging.getLogger(__name__)
Emit = Callable[[dict[str, Any]], Awaitable[None]]


class Filter:
    """Open WebUI calls `outlet` with the chat when its last message, the answer, is whole and shown."""

    class Valves(BaseModel):
        priority: int = Field(0, description="Filters run by this number, the lowest first.")
        base_url: str = Field("http://127.0.0.1:8000", description="The refinement server, as Open WebUI reaches it.")
        api_key: str = Field("", json_schema_extra={"input": {"type": "password"}}, description="Its key, if any.")
        model: str = Field("", description="One of its models; empty: its default one.")
        rounds: int = Field(1, ge=1, description="How often the answer is refined.")
        timeout_s: float = Field(60.0, gt=0, description="Seconds; then the best text that is finished is taken.")

    class UserValves(BaseModel):
        enabled: bool = Field(True, description="Refine my answers.")
        instruction: str = Field("", description="A wish for every refinement, such as: Make it shorter.")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def outlet(
        self, body: dict[str, Any], __user__: dict[str, Any] | None = None, __event_emitter__: Emit | None = None
    ) -> dict[str, Any]:
        """The chat with the refined answer in place of its last message's text."""
        wishes = (__user__ or {}).get("valves") or self.UserValves()
        *earlier, answer = body["messages"]
        thoughts, draft = split(answer)
        if not (wishes.enabled and draft.strip()) or calls_tools(answer):
            return body
        await tell(__event_emitter__, "Refining the answer", done=False)
        try:
            refined, said = await self.refine(earlier, draft, wishes.instruction)
        except (httpx2.HTTPError, TimeoutError, ValueError, KeyError) as exc:
            log.warning("slhf: the answer is left as it is: %s: %s", type(exc).__name__, exc)
            refined, said = draft, f"The answer is not refined ({type(exc).__name__})"
        if refined != draft:
            rewrite(answer, draft, thoughts, refined)
        await tell(__event_emitter__, said, done=True)
        return body

    async def refine(self, earlier: list[dict[str, Any]], draft: str, instruction: str) -> tuple[str, str]:
        """The text, and what a user is told of it. Raises HTTPError for a failure, TimeoutError for none in time."""
        valves = self.valves
        options = {"model": valves.model or None, "instruction": instruction or None, "rounds": valves.rounds}
        options |= {"draft": draft, "timeout_ms": round(valves.timeout_s * 1000), "return_rounds": False}
        messages = [{"role": turn["role"], "content": turn.get("content")} for turn in earlier]
        headers = {"Authorization": f"Bearer {valves.api_key}"} if valves.api_key else {}
        async with asyncio.timeout(valves.timeout_s + GRACE_S), httpx2.AsyncClient(timeout=None) as client:
            url = f"{valves.base_url.rstrip('/').removesuffix('/v1')}/v1/refine"
            response = await client.post(url, json={"messages": messages, **options}, headers=headers)
        if response.is_client_error:
            log.warning("slhf: %s", response.text)
        done = response.raise_for_status().json()
        report = done["refinement"]
        if not report["applied"]:
            return done["output"], f"The answer stays as it was ({report['stop_reason']})"
        return done["output"], f"Refined in {report['duration_ms'] / 1000:.1f} s, rounds: {report['rounds_run']}"


async def tell(emit: Emit | None, description: str, *, done: bool) -> None:
    if emit is not None:
        await emit({"type": "status", "data": {"description": description, "done": done}})


def split(answer: dict[str, Any]) -> tuple[str, str]:
    """The thoughts that are shown before an answer, and its text; neither of a message that is no answer in text."""
    content = answer.get("content")
    if answer.get("role") != "assistant" or not isinstance(content, str):
        return "", ""
    match = THOUGHTS.match(content)
    end = match.end() if match else 0
    return content[:end], content[end:]


def calls_tools(answer: dict[str, Any]) -> bool:
    """Whether the answer has more than one text: what was said before a call of a tool is no draft."""
    items = [item.get("type") for item in answer.get("output") or []]
    return (
        any(kind not in ("message", "reasoning") for kind in items) or '<details type="tool_calls"' in answer["content"]
    )


def rewrite(answer: dict[str, Any], draft: str, thoughts: str, refined: str) -> None:
    """The text in both places where Open WebUI keeps it."""
    answer["content"] = thoughts + refined
    for item in answer.get("output") or []:
        for part in item.get("content") or []:
            if isinstance(part, dict) and part.get("text") == draft:
                part["text"] = refined
