"""Pages of other origins: none by default, those of the configuration where it names some."""

import httpx2
import pytest

from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from tests.conftest import Serve

PAGE = "https://page.example"


def preflight(url: str, origin: str) -> httpx2.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    return httpx2.options(f"{url}/v1/chat/completions", headers=asked)


def test_no_origin_is_allowed_by_default(serve: Serve) -> None:
    url = serve()
    for answer in (preflight(url, PAGE), httpx2.get(f"{url}/v1/models", headers={"Origin": PAGE})):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_needs_no_key_and_the_answer_can_be_read(serve: Serve) -> None:
    url = serve(api_keys="me=right", cors_origins=[PAGE])
    answer = preflight(url, PAGE)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]
    headers = {"Origin": PAGE, "Authorization": "Bearer right"}
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}, headers=headers)
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert exposed >= {name.lower() for name in answer.headers if name.lower().startswith(("x-slhf-", "x-request-id"))}
    assert any(name.startswith("x-slhf-") for name in exposed)


def test_refusals_can_be_read_by_the_page_too(serve: Serve) -> None:
    url = serve(api_keys="me=right", cors_origins=[PAGE])
    refused = httpx2.get(f"{url}/v1/models", headers={"Origin": PAGE})
    large = httpx2.get(f"{url}/v1/models", headers={"Origin": PAGE, "X": 40_000 * "y"})
    assert (refused.status_code, large.status_code) == (401, 431)
    assert {answer.headers["access-control-allow-origin"] for answer in (refused, large)} == {PAGE}


def test_another_origin_is_not_allowed(serve: Serve) -> None:
    url = serve(cors_origins=[PAGE])
    for origin in ("https://page.example.evil.example", "http://page.example", "null"):
        assert "access-control-allow-origin" not in preflight(url, origin).headers


def test_a_star_allows_every_origin_without_credentials(serve: Serve) -> None:
    answer = preflight(serve(cors_origins=["*"]), "https://anywhere.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000", "http://[::1]:3000", "app://obsidian.md", "*"])
def test_an_origin_is_written_as_a_browser_sends_it(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("SLHF_CORS_ORIGINS", f'["{origin}"]')
    assert load_settings([]).cors_origins == load_settings(["--cors-origins", origin]).cors_origins == [origin]


@pytest.mark.parametrize(
    "origin",
    [f"{PAGE}/", f"{PAGE}/path", "page.example", "https://*.example", "https://Page.example", "", "null", "https://"],
)
def test_what_no_browser_would_send_refuses_to_start(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("SLHF_CORS_ORIGINS", f'["{origin}"]')
    with pytest.raises(SettingsError, match="^cors_origins: .*is no origin"):
        load_settings([])
