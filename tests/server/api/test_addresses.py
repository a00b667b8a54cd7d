"""No request can make the server call an address: a trap listens, and every request names it somewhere."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.conftest import Serve

ASK = [{"role": "user", "content": "what is it"}]


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """A port on which nobody must call. A connection is in its queue from the handshake on, accepted or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def bodies(url: str) -> Iterator[dict[str, Any]]:
    """Chat requests that name the address in every place where a server could look for one."""
    for key in ("base_url", "api_base", "upstream", "url", "endpoint", "webhook_url", "callback", "model"):
        yield {key: url}
        yield {"refine": {key: url}}
        yield {"metadata": {key: url}}
        yield {"upstream": {key: url}}
        yield {"refine": {"upstream": {key: url, "model": "m"}}}
    for key in ("leader", "follower", "draft", "instruction"):
        yield {"refine": {key: url}}
    for key in ("user", "safety_identifier", "prompt_cache_key", "service_tier"):
        yield {key: url}
    for part in (
        {"type": "image_url", "image_url": {"url": f"{url}/a.png"}},
        {"type": "image_url", "image_url": f"{url}/a.png"},
        {"type": "input_image", "image_url": f"{url}/a.png"},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "file_url": url}},
        {"type": "text", "text": f"![image]({url}/a.png)"},
    ):
        yield {"messages": [{"role": "user", "content": [part]}]}
    for schema in (
        {"$ref": f"{url}/schema.json"},
        {"$schema": f"{url}/meta.json", "type": "object"},
        {"$id": f"{url}/schema.json", "type": "object", "properties": {"a": {"$ref": "other.json"}}},
        {"type": "object", "properties": {"a": {"$dynamicRef": f"{url}/schema.json#a"}}},
        {"type": "object", "additionalProperties": {"$ref": f"{url}/schema.json"}},
    ):
        yield {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}
        yield {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
    yield {"tools": [{"type": "mcp", "server_url": url, "server_label": "x"}]}
    yield {"web_search_options": {"url": url}}
    yield {"chat_template": f"{{% include '{url}' %}}"}


def head_fields(url: str, host: str) -> Iterator[dict[str, str]]:
    for name in ("Host", "X-Forwarded-Host", "X-Forwarded-For", "X-Real-IP"):
        yield {name: host}
    for name in ("X-Base-Url", "X-Upstream", "X-SLHF-Upstream", "Origin", "Referer", "X-Original-URL", "Destination"):
        yield {name: url}
    yield {"Forwarded": f"host={host};proto=http"}
    yield {"baggage": f"url={url}", "tracestate": "a=b"}


def test_no_request_can_name_an_address_that_the_server_calls(serve: Serve, trap: socket.socket) -> None:
    host = f"127.0.0.1:{trap.getsockname()[1]}"
    address = f"http://{host}"
    statuses: list[int] = []
    with httpx2.Client(base_url=serve()) as http:
        for changes in bodies(address):
            chat = {"messages": ASK} | changes
            refine = {"prompt": "x"} | changes | changes.get("refine", {})
            refine |= {"prompt": None} if "messages" in changes else {}
            statuses.append(http.post("/v1/chat/completions", json=chat).status_code)
            statuses.append(http.post("/v1/refine", json=refine).status_code)
        for headers in head_fields(address, host):
            statuses.append(http.post("/v1/refine", json={"prompt": "x"}, headers=headers).status_code)
            statuses.append(http.get("/v1/models/", headers=headers).status_code)
        statuses.append(http.get(f"/v1/models/{address}").status_code)
    assert {status // 100 for status in statuses} <= {2, 3, 4}
    with pytest.raises(BlockingIOError):
        trap.accept()


def test_the_trap_would_tell(trap: socket.socket) -> None:
    with socket.create_connection(trap.getsockname()):
        trap.accept()[0].close()
