"""From a request to a Job: every default applied, every limit checked, before anything runs."""

import time
from collections.abc import Sequence
from dataclasses import replace

from slhf.turns import follower_turn
from slhf.wire import Message, ModelCard, RefineOptions
from slhf_server.deadline import Deadline
from slhf_server.errors import BadRequest, ModelNotFound
from slhf_server.job import Deltas, Endpoint, Job, Player
from slhf_server.model import Engine, Sampling, Turn
from slhf_server.settings import ServedModel, Settings
from slhf_server.stops import StopRule
from slhf_server.stops.unchanged import unchanged

_ID_PREFIX: dict[Endpoint, str] = {"chat": "chatcmpl", "refine": "refine"}


class Planner:
    """Knows the served models and their limits."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self.served = settings.served(engine.manifest.name)

    def plan(
        self,
        *,
        endpoint: Endpoint,
        request_id: str,
        model: str | None,
        messages: Sequence[Message],
        options: RefineOptions,
        sampling: Sampling,
        deltas: Deltas,
    ) -> Job:
        """Raises ModelNotFound and BadRequest, naming the parameter."""
        name, served = self._find(model)
        limits = self._settings.limits_of(served)
        if options.draft is None and served.leader == "none":
            raise BadRequest(f"model {name!r} has no Leader: give a draft", param="draft")
        draws = replace(
            sampling,
            **options.model_dump(include={"temperature", "top_p", "max_tokens"}, exclude_none=True),
        )
        return Job(
            id=f"{_ID_PREFIX[endpoint]}-{request_id}",
            endpoint=endpoint,
            model=name,
            turns=_turns(messages),
            draft=options.draft,
            rounds=_limited("rounds", options.rounds, served.rounds, limits.rounds),
            leader=None if options.draft is not None else Player("leader", self._engine.leader, sampling),
            follower=Player("follower", self._engine.follower, draws),
            follower_turn=follower_turn(self._engine.manifest.follower_turn, options.instruction),
            received=time.perf_counter(),
            deadline=Deadline.after(_limited("timeout_ms", options.timeout_ms, None, limits.timeout_ms) / 1e3),
            max_total_tokens=_limited("max_total_tokens", options.max_total_tokens, None, limits.max_total_tokens),
            fail_on_error=options.on_error == "fail",
            stops=_stops(options),
            deltas=deltas,
            counts_tokens=options.timeout_ms is not None,
        )

    def card(self, name: str, *, created: int) -> ModelCard:
        """A served model as `GET /v1/models` shows it. Raises ModelNotFound."""
        self._find(name)
        manifest = self._engine.manifest
        return ModelCard(
            id=name,
            created=created,
            root=manifest.root,
            max_model_len=self._engine.max_model_len,
            card=manifest.card(),
        )

    def _find(self, model: str | None) -> tuple[str, ServedModel]:
        name = next(iter(self.served)) if model is None else model
        if name not in self.served:
            raise ModelNotFound(f"The model {name!r} does not exist; served: {', '.join(self.served)}", param="model")
        return name, self.served[name]


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    if not messages:
        raise BadRequest("messages is empty: give at least one user turn", param="messages")
    if messages[-1].role == "assistant":
        raise BadRequest(
            "the last message is an assistant's. To have it refined, pass its text as 'draft' "
            "('refine.draft' in chat) and end messages with the user's turn; prefilling an answer is not supported",
            param="messages",
        )
    if messages[-1].role != "user":
        raise BadRequest("the last message must be a user's", param="messages")
    roles = ("system" if m.role == "developer" else m.role for m in messages)
    return tuple(Turn(role, m.text) for role, m in zip(roles, messages, strict=True))


def _limited(name: str, asked: int | None, default: int | None, limit: int) -> int:
    """What was asked, else the default, else the limit. Asking for more than the limit is an error, not a cut."""
    if asked is not None and asked > limit:
        raise BadRequest(f"{name} is {asked}, and this server allows at most {limit}", param=name)
    return next(value for value in (asked, default, limit) if value is not None)


def _stops(options: RefineOptions) -> tuple[StopRule, ...]:
    return (unchanged,) if options.stop_when_unchanged else ()
