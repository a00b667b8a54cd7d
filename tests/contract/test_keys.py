"""API keys as the official `openai` SDK meets them."""

import openai
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve


def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_a_wrong_key_is_an_authentication_error(serve: Serve) -> None:
    url = serve(api_keys="me=right")
    with client(url, "wrong") as sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}])
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
    assert caught.value.request_id
    with client(url, "right") as sdk:
        assert [model.id for model in sdk.models.list()] == ["fake"]
        assert sdk.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}]).choices


def test_a_keys_rate_is_a_rate_limit_error(serve: Serve) -> None:
    url = serve(api_keys="me=right", limits={"key_requests_per_minute": 1})
    with client(url, "right") as sdk:
        sdk.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.models.list()
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_keys_place_is_held_until_its_stream_has_ended(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.5), api_keys="me=right,you=left", limits={"key_concurrency": 1})
    with client(url, "right") as mine, client(url, "left") as yours:
        with mine.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "x"}], stream=True
        ) as running:
            next(iter(running))
            with pytest.raises(openai.RateLimitError) as caught:
                mine.models.list()
            assert caught.value.response.headers["retry-after"] == "1"
            assert yours.models.list()
            for _ in running:
                pass
        assert mine.with_options(max_retries=2).models.list()  # the stream's end may be read before its place is free
