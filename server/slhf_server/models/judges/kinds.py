"""Opens the judges of the settings. A new kind is a file beside this one, a key in settings/judging.py, a case here."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from slhf_server.models.base import ChatModel, Engine
from slhf_server.models.judge import Judge
from slhf_server.models.judges.language_model import LanguageModelJudge
from slhf_server.models.judges.own_answers import OwnAnswersJudge
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.settings.judging import JudgeSettings

_SENTENCE = 8
"""Tokens of a reply that nobody gives log-probabilities for: "**Answer: B**"."""
_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch of thoughts, after which the first token would be no letter."""


def open_judges(
    settings: Mapping[str, JudgeSettings],
    upstreams: Mapping[str, ChatModel],
    own: Engine | None,
    metrics: UpstreamMetrics,
    closing: AsyncExitStack,
) -> dict[str, Judge]:
    """The judges by name; `closing` closes what they hold open. Raises SettingsError.

    `own` is the engine in this process, which is there where a judge is on it. `metrics` are those of other servers.
    """
    return {name: _opened(name, judge, upstreams, own, metrics, closing) for name, judge in settings.items()}


def _opened(
    name: str,
    judge: JudgeSettings,
    upstreams: Mapping[str, ChatModel],
    own: Engine | None,
    metrics: UpstreamMetrics,
    closing: AsyncExitStack,
) -> Judge:
    if judge.upstream is not None:
        return LanguageModelJudge(name, upstreams[judge.upstream], max_tokens=_SENTENCE)
    if judge.reward is not None:
        from slhf_server.models.judges.reward_server import RewardServer  # imports an HTTP client

        server = RewardServer(name, judge.reward, metrics)
        closing.push_async_callback(server.close)
        return server
    assert own is not None  # the settings say that it is loaded
    if judge.own_answers is not None:
        return OwnAnswersJudge(name, own.leader, judge.own_answers)
    plain = {switch: False for switch in _SWITCHES if switch in own.template_options}
    return LanguageModelJudge(name, own.leader, max_tokens=1, template_options=plain)
