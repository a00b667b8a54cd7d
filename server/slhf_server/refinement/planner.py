"""Plans a request's jobs: every default is applied and every limit checked before anything runs."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slhf.history import Message
from slhf.turns import follower_turn
from slhf.wire import ModelCard, ModelLimits, RefineOptions
from slhf_server.deadline import Deadline
from slhf_server.errors import BadRequest, ModelNotFound
from slhf_server.models.base import ChatModel, Engine, SamplingParams
from slhf_server.refinement import conversation
from slhf_server.refinement.job import Deltas, Drafter, Endpoint, Job, RoleBinding
from slhf_server.refinement.kept import BY_DEFAULT
from slhf_server.refinement.request_log import RequestLog
from slhf_server.refinement.stops import asked_for
from slhf_server.settings.server import ServedModel, Settings

_ID_PREFIX: dict[Endpoint, str] = {"chat": "chatcmpl", "completions": "cmpl", "refine": "refine", "responses": "resp"}
_OWN = ("temperature", "top_p", "max_tokens")
"""Sampling that the `refine` object may set for the Follower alone."""


@dataclass(frozen=True, slots=True)
class RefineParams:
    """What a request asks for, whatever its endpoint."""

    endpoint: Endpoint
    request_id: str
    model: str | None
    messages: Sequence[Message]
    options: RefineOptions
    sampling: SamplingParams
    deltas: Deltas
    choices: int = 1
    """Independent chains (OpenAI's `n`)."""
    cache_salt: str | None = None
    """See `Job.cache_salt`."""
    log: RequestLog = field(default_factory=RequestLog)
    """The request's line in the log."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The headers that name the caller's span."""
    check_supported: Callable[[Drafter], None] = lambda drafter: None
    """Raises BadRequest for a parameter that the draft's writer cannot take."""


class Planner:
    """Knows the served models and their limits."""

    def __init__(self, settings: Settings, engine: Engine, upstreams: Mapping[str, ChatModel]) -> None:
        self._settings = settings
        self._engine = engine
        self._upstreams = upstreams
        self.served = settings.served(engine.manifest.name)
        self._limits = {name: settings.limits_of(model) for name, model in self.served.items()}

    def plan(self, params: RefineParams) -> list[Job]:
        """A job for each choice. Raises ModelNotFound and BadRequest, naming the parameter."""
        name, served = self._find(params.model)
        drafter = self._drafter(served, params.options)
        params.check_supported(drafter)
        conversation.check(params.messages)
        conversation.log_unread(params.messages)
        choices = _limited("n", params.choices, None, self._settings.limits.choices)
        shared = self._job(name, served, params, drafter)
        return [shared, *(_another(shared, number) for number in range(1, choices))]

    def card(self, name: str, *, created: int) -> ModelCard:
        """A served model as `GET /v1/models` shows it. Raises ModelNotFound."""
        _, served = self._find(name)
        manifest, limits = self._engine.manifest, self._limits[name]
        return ModelCard(
            id=name,
            created=created,
            root=manifest.root,
            max_model_len=self._engine.max_model_len,
            card=manifest.card(),
            drafts=served.leader != "none",
            rounds=served.rounds,
            limits=ModelLimits(
                rounds=limits.rounds, max_total_tokens=limits.max_total_tokens, timeout_ms=limits.timeout_ms
            ),
        )

    def _find(self, model: str | None) -> tuple[str, ServedModel]:
        name = next(iter(self.served)) if model is None else model
        if name not in self.served:
            served = ", ".join(self.served)
            raise ModelNotFound(f"The model {name[:200]!r} does not exist; served: {served}", param="model")
        return name, self.served[name]

    def _drafter(self, served: ServedModel, options: RefineOptions) -> Drafter:
        if options.draft is not None:
            return "client"
        return "upstream" if served.leader in self._upstreams else "engine"

    def _job(self, name: str, served: ServedModel, params: RefineParams, drafter: Drafter) -> Job:
        options, limits, manifest = params.options, self._limits[name], self._engine.manifest
        rounds = _limited("rounds", options.rounds, served.rounds, limits.rounds)
        conversation.check_parts(params.messages, drafter)
        if served.images == "pass_through" and any(message.others for message in params.messages):
            rounds = 0
        turns = conversation.as_text(params.messages)
        return Job(
            run_id=_run_id(),
            id=f"{_ID_PREFIX[params.endpoint]}-{params.request_id}",
            endpoint=params.endpoint,
            model=name,
            turns=turns,
            leader_turns=conversation.as_sent(params.messages) if drafter == "upstream" else turns,
            draft=options.draft,
            draft_source="leader" if drafter == "engine" else drafter,
            rounds=rounds,
            leader=self._leader(name, served, params, drafter),
            follower=RoleBinding("follower", self._engine.follower, _followers(params), manifest.keeps_by_silence),
            follower_turn=follower_turn(manifest.follower_turn, options.instruction),
            received=time.perf_counter(),
            deadline=Deadline.after(_limited("timeout_ms", options.timeout_ms, None, limits.timeout_ms) / 1e3),
            max_total_tokens=_limited("max_total_tokens", options.max_total_tokens, None, limits.max_total_tokens),
            fail_on_error=options.on_error == "fail",
            stops=asked_for(options),
            structure=params.sampling.structure,
            kept=() if options.instruction else BY_DEFAULT if served.keep is None else served.keep,
            holds_back=bool(served.keep) and not options.instruction,
            deltas=params.deltas,
            counts_tokens=options.timeout_ms is not None,
            cache_salt=params.cache_salt,
            log=params.log,
            trace=params.trace,
        )

    def _leader(self, name: str, served: ServedModel, params: RefineParams, drafter: Drafter) -> RoleBinding | None:
        if drafter == "client":
            return None
        if served.leader == "none":
            raise BadRequest(f"model {name!r} has no Leader: give a draft", param="draft")
        model = self._upstreams[served.leader] if drafter == "upstream" else self._engine.leader
        return RoleBinding("leader", model, params.sampling)


def _run_id() -> str:
    return secrets.token_hex(8)


def _another(job: Job, number: int) -> Job:
    """The job of a further chain: the engine knows it by another id, and its copy of the deadline wakes it alone."""
    return replace(job, choice=number, run_id=_run_id(), deadline=job.deadline.copy())


def _followers(params: RefineParams) -> SamplingParams:
    """The request's sampling without what an upstream alone takes, and with what `refine` says for the Follower."""
    own = {name: value for name in _OWN if (value := getattr(params.options, name)) is not None}
    return replace(params.sampling, upstream_params={}, **own)


def _limited(name: str, asked: int | None, default: int | None, limit: int) -> int:
    """What was asked, else the default, else the limit. Asking for more than the limit is an error, not a cut."""
    if asked is not None and asked > limit:
        raise BadRequest(f"{name} is {asked}, and this server allows at most {limit}", param=name)
    return next(value for value in (asked, default, limit) if value is not None)
