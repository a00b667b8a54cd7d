"""Usage by the API key's name: for operators alone, since it tells who the clients are."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from slhf_server.access.keys import Keyring


class KeyUsage(Collector):
    """Reads the keys' counters at scrape time. Labels are bounded by the keys that there are."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def collect(self) -> Iterator[CounterMetricFamily]:
        requests = CounterMetricFamily("slhf_key_requests", "Requests that were let in.", labels=("key",))
        prompts = CounterMetricFamily("slhf_key_prompt_tokens", "Prompt tokens.", labels=("key",))
        generated = CounterMetricFamily("slhf_key_generation_tokens", "Generated tokens.", labels=("key",))
        for key in self._keyring:
            for family, count in (
                (requests, key.spending.requests),
                (prompts, key.spending.prompt_tokens),
                (generated, key.spending.completion_tokens),
            ):
                family.add_metric((key.entry.name,), count)
        yield from (requests, prompts, generated)
