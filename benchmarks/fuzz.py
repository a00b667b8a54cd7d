"""Fuzzed requests, and how many of them are answered 5xx: there must be none.

    python -m benchmarks.fuzz [--requests 20000] [--seed 0]

schemathesis makes requests from the server's own OpenAPI document, valid ones and invalid ones. Each is sent as it is,
and then changed: some of its values in an ordinary request, values replaced by odd ones, bytes of the body cut, doubled
or exchanged, a header or the key wrong. The application has a key, is mounted under a prefix, and runs in this process
on the fake engine, so that the answers are the server's own and not a model's. The same seed makes the same requests,
as long as the libraries are the same.

A deadline that a request asks for may be over before a text is there, which is a 504 by contract: `timeout_ms` is
raised to a minute, wherever it is a number.
"""

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from pydantic import SecretStr
from schemathesis import Case, GenerationMode
from starlette.applications import Starlette
from starlette.routing import Mount

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings

PREFIX = "/small"
KEY = "right"
POSTS = ["/v1/refine", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
POSTS += ["/v1/messages/count_tokens", "/tokenize", "/detokenize"]
GETS = ["/v1/models", "/v1/models/{name}", "/health", "/ready", "/version", "/metrics"]
GENERATED, VARIANTS = 50, 10
ASK = [{"role": "user", "content": "what is it"}]
ORDINARY: dict[str, dict[str, Any]] = {
    "/v1/refine": {"prompt": "x", "draft": "a draft", "rounds": 1},
    "/v1/chat/completions": {"messages": ASK, "refine": {"rounds": 1}},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"max_tokens": 9, "messages": ASK, "refine": {"rounds": 1}},
    "/v1/messages/count_tokens": {"messages": ASK},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [0]},
}
ODD: list[Any] = [
    *(None, True, 0, -1, 2**63, -(2**63) - 1, 2**64, 10**400, 1e308, 1e-320, "", " ", "\0", "\ud800", "a" * 10_000),
    *([], {}, [[]], [None], {"": None}, "<think>", "</think>" * 50, "<|im_start|>", "\u2028", "1", "true", "null"),
]
HEADERS = [
    *({"content-type": "text/plain"}, {"content-type": "application/json; charset=latin-1"}, {"content-type": ""}),
    *({"content-encoding": "gzip"}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}),
    *({"authorization": ""}, {"x-request-id": "\xff" * 200}, {"traceparent": "00-0-0-0"}, {"accept": "text/html"}),
    *({"host": "[evil"}, {"origin": "null"}, {"expect": "100-continue"}, {"transfer-encoding": "gzip"}),
]


@dataclass
class Tally:
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def take(self, path: str, request: httpx2.Request, answer: httpx2.Response) -> None:
        self.answers[path, answer.status_code] += 1
        if answer.status_code >= 500:
            said = (
                f"{request.method} {request.url} {request.content[:2000]!r}: {answer.status_code} {answer.text[:300]}"
            )
            self.failures.append(said)


def generated(schema: Any, method: str, path: str, mode: GenerationMode, count: int, start: int) -> list[Case[Any]]:
    """So many requests of one operation; an operation that can be asked in fewer ways gives fewer."""
    found: list[Case[Any]] = []

    @seed(start)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def keep(case: Case[Any]) -> None:
        found.append(case)

    keep()
    return found


def cases(schema: Any, chance: random.Random) -> Iterator[Case[Any]]:
    """Without end, most of them POST; negative ones as often as positive ones."""
    while True:
        for path in POSTS:
            for mode in GenerationMode:
                yield from generated(schema, "POST", path, mode, GENERATED, chance.getrandbits(32))
        for path in GETS:
            yield from generated(schema, "GET", path, GenerationMode.POSITIVE, 2, chance.getrandbits(32))


def patient(value: Any) -> Any:
    """The same with time enough, at whatever depth a `timeout_ms` stands."""
    if isinstance(value, list):
        return [patient(item) for item in value]
    if isinstance(value, dict):
        return {k: 60_000 if k == "timeout_ms" and isinstance(v, int | float) else patient(v) for k, v in value.items()}
    return value


def with_odd_value(value: Any, chance: random.Random) -> Any:
    """One value somewhere in it replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value, key=str))
        return {**value, key: with_odd_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], with_odd_value(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)


def spoilt(text: bytes, chance: random.Random) -> bytes:
    """Bytes cut, changed, doubled, or nested without end."""
    start, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
    ways = [text[:start], text[:start] + text[end:], text[:end] + text[start:]]
    ways += [text[:start] + chance.randbytes(4) + text[end:], b"[" * 5000 + text, b'{"a":' * 2000 + text]
    ways += [
        text.replace(b":", b': NaN, "x":', 1),
        b"\xef\xbb\xbf" + text,
        text.decode("utf-8", "replace").encode("utf-16"),
    ]
    return chance.choice(ways)


def among_ordinary(path: str, body: Any, chance: random.Random) -> Any:
    """An ordinary request with a few of the body's values."""
    if not isinstance(body, dict) or not body:
        return ORDINARY[path]
    chosen = chance.sample(sorted(body, key=str), min(len(body), chance.randint(0, 3)))
    return ORDINARY[path] | {key: body[key] for key in chosen}


def request_of(http: httpx2.AsyncClient, case: Case[Any], variant: int, chance: random.Random) -> httpx2.Request:
    """The case itself, and then its changes."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    body, text = case.body, b""
    if case.method == "POST":
        body = body if isinstance(body, dict | list | str | int | float | bool | None) else None
        body = body if variant == 0 or variant > 7 else among_ordinary(case.path, body, chance)
        body = with_odd_value(body, chance) if variant in (5, 6, 8) else body
        text = json.dumps(patient(body)).encode()
        text = spoilt(text, chance) if variant in (7, 9) else text
    headers |= chance.choice(HEADERS) if variant == 4 else {}
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return http.build_request(case.method, PREFIX + case.formatted_path, content=text, headers=fields)


async def run(requests: int, start: int) -> Tally:
    tally, chance = Tally(), random.Random(start)
    app = create_app(Settings(api_keys=SecretStr(f"me={KEY}")), FakeEngine(max_model_len=2000).open)
    outer = Starlette(routes=[Mount(PREFIX, app)])
    transport = httpx2.ASGITransport(outer, raise_app_exceptions=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        await app.state.service.loading()
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url="http://x"))
        schema = schemathesis.openapi.from_dict(app.openapi())
        for number, case in enumerate(cases(schema, chance)):
            for variant in range(min(VARIANTS, requests - number * VARIANTS)):
                request = request_of(http, case, variant, chance)
                tally.take(case.path, request, await http.send(request))
            if tally.answers.total() == requests:
                return tally
    raise AssertionError("there are always more cases")


def table(tally: Tally) -> str:
    """Markdown: answers of each path by status."""
    statuses = sorted({status for _, status in tally.answers})
    lines = ["| path | requests | " + " | ".join(map(str, statuses)) + " |", "|---" * (len(statuses) + 2) + "|"]
    for path in [*POSTS, *GETS]:
        counts = [tally.answers[path, status] for status in statuses]
        lines.append(f"| `{path}` | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join([*lines, "", f"5xx: {len(tally.failures)} of {tally.answers.total()} requests"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tally = asyncio.run(run(arguments.requests, arguments.seed))
    print(table(tally))
    for failure in tally.failures[:20]:
        print(failure)
    raise SystemExit(bool(tally.failures))


if __name__ == "__main__":
    main()
