"""Samples with vLLM servers: adapters are loaded under names of their own, which requests name as their model.

An adapter's name and path are made of the digest of its weights. vLLM's prefix cache knows blocks by both, so blocks of
other weights are never found, and the cache need not be emptied; a name that is loaded already needs no second load.
(Loaded "in place" under one name, an adapter is read from the disk again at every step: vllm-project/vllm#41482, seen
with vLLM 0.32.)

On CPUs vLLM 0.32 adds an adapter's part to what is asked of the base in the same batch (vllm-project/vllm#48421, seen
here): where Leader and reference are asked side by side, as by rloo and validation, servers have to be on GPUs.

With several processes the first one loads while the others wait; all sample.
"""

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from slhf_training.config import authorization
from slhf_training.errors import RolloutError, SettingsError
from slhf_training.models.roles import Roles
from slhf_training.rollout import SEEDS, Ask, RolloutSettings, Servers
from slhf_training.types import Ids, Player, Sample

# The model's own generation settings are the server's defaults: each has to be overruled.
_PLAIN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class ServerRollout:
    """Implements `Rollout`, but for the mixture and for weights that are no adapters."""

    def __init__(self, roles: Roles, settings: RolloutSettings, end_ids: frozenset[int]) -> None:
        """Raises SettingsError for servers that do not answer or report other log-probs than those of sampling."""
        assert settings.servers is not None, "the settings see to it"
        self._roles = roles
        self._settings = settings
        self._end_ids = sorted(end_ids)
        self._directory = settings.servers.adapters.resolve()
        self._servers = [_Server(url, settings.servers) for url in settings.servers.urls]
        self._loaded: dict[str, str] = {}
        for server in self._servers:
            server.check(self._end_ids[0])
        self._pool = ThreadPoolExecutor(settings.batch_size, "slhf-rollout")

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        ask = self.asking(player)
        asked = [ask(i, prompt, seed) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]
        return [future.result() for future in asked]

    def asking(self, player: Player) -> Ask:
        """Implements `Streaming`: no more answers than `batch_size` are under way at once, the others wait."""
        adapter = self._up_to_date(player)

        def ask(place: int, prompt: Ids, seed: int) -> Future[Sample]:
            # A chat's answers and replies go to one server, whose prefix cache may hold their beginning.
            return self._pool.submit(self._ask, self._servers[place % len(self._servers)], adapter, prompt, seed)

        return ask

    def close(self) -> None:
        """End the connections. The adapters stay loaded: the servers are not ours."""
        self._pool.shutdown()
        for server in self._servers:
            server.close()

    def _ask(self, server: "_Server", adapter: str | None, prompt: Ids, seed: int) -> Sample:
        choice = server.complete(
            adapter or server.base,
            prompt=list(prompt),
            max_tokens=self._settings.max_new_tokens,
            temperature=self._settings.temperature,
            stop_token_ids=self._end_ids,
            seed=seed & SEEDS,
            logprobs=0,  # of the chosen token alone
        )
        logps = tuple(map(float, choice["logprobs"]["token_logprobs"]))
        return Sample(tuple(choice["token_ids"]), logps, ended=choice["finish_reason"] == "stop")

    def _up_to_date(self, player: Player) -> str | None:
        """Return the name under which every server has this player's adapter as it is now; None: the base."""
        if player == "reference":
            return None
        assert player != "mixture", "FitSettings refuses nash-md with servers"
        adapter = self._roles.adapter_of[player]
        weights = self._roles.adapter(adapter)
        names: list[str] = broadcast_object_list([f"{adapter}-{hashlib.sha256(weights).hexdigest()[:16]}"])
        name = names[0]  # all take the first process's
        if name != self._loaded.get(adapter):
            processes = PartialState()
            processes.wait_for_everyone()  # weights change when all answers of a step are there, in every process
            if processes.is_main_process:
                self._replace(adapter, name, weights)
            processes.wait_for_everyone()
            self._loaded[adapter] = name
        return name

    def _replace(self, adapter: str, name: str, weights: bytes) -> None:
        self._roles.write_adapter(adapter, self._directory / name, weights)
        for server in self._servers:
            server.load(name, str(self._directory / name))
        if old := self._loaded.get(adapter):
            for server in self._servers:
                server.unload(old)
            shutil.rmtree(self._directory / old)


class _Server:
    def __init__(self, url: str, settings: Servers) -> None:
        headers = authorization(settings.api_key_variable, "rollout.servers.api_key_variable")
        self._url = url
        self._http = httpx2.Client(
            base_url=url,
            headers=headers,
            timeout=settings.timeout_s,
            transport=httpx2.HTTPTransport(retries=3, limits=httpx2.Limits(max_connections=None)),  # of connecting
        )
        self.base = ""
        """The base model's name there; `check` finds it."""

    def check(self, token: int) -> None:
        """Raise SettingsError where the server does not answer, or its log-probs are not those of the temperature.

        If they are, those of two tokens differ four times as much at 0.5 as at 2.
        """
        try:
            self.base = next(card["id"] for card in self._models() if not card.get("parent"))
            cold, hot = (self._spread(token, temperature) for temperature in (0.5, 2.0))
        except RolloutError as exc:
            raise SettingsError(f"rollout.servers.urls: {exc}") from exc
        if cold < 3 * hot:
            raise SettingsError(f"rollout.servers.urls: {self._url} needs --logprobs-mode processed_logprobs")

    def complete(self, model: str, **body: Any) -> Any:
        answer = self._call("POST", "/v1/completions", {"model": model, "return_token_ids": True, **_PLAIN, **body})
        return answer.json()["choices"][0]

    def close(self) -> None:
        self._http.close()

    def load(self, name: str, path: str) -> None:
        if name not in [card["id"] for card in self._models()]:
            self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload(self, name: str) -> None:
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def _models(self) -> Any:
        return self._call("GET", "/v1/models").json()["data"]

    def _spread(self, token: int, temperature: float) -> float:
        asked = {"prompt": [token], "max_tokens": 1, "seed": 0, "return_tokens_as_token_ids": True}
        choice = self.complete(self.base, temperature=temperature, logprobs=2, **asked)
        first, second, *_ = sorted(choice["logprobs"]["top_logprobs"][0].values(), reverse=True)
        return float(first - second)

    def _call(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx2.RequestError as exc:
            raise RolloutError(f"{self._url}{path}: {type(exc).__name__} {exc}") from exc
        if answer.status_code != 200:
            hint = " (was it started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1?)" if answer.status_code == 404 else ""
            raise RolloutError(f"{self._url}{path}: HTTP {answer.status_code} {answer.text[:500]}{hint}")
        return answer
