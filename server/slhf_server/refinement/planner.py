"""Plans a request's jobs: every default is applied and every limit checked before anything runs."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slhf import Bundle
from slhf.cards import JudgeCard, ModelCard, ModelLimits
from slhf.history import Message
from slhf.turns import follower_turn
from slhf.wire import RefineOptions
from slhf_server.deadline import Deadline
from slhf_server.errors import BadRequest, EngineUnavailable, ModelNotFound
from slhf_server.models.base import ChatModel, Engine, SamplingParams, Tokenizer, Turn
from slhf_server.models.judge import Judge
from slhf_server.models.structured_output.workers import Workers
from slhf_server.refinement import conversation
from slhf_server.refinement.job import Deltas, Drafter, Endpoint, Job, Judging, RoleBinding
from slhf_server.refinement.kept import BY_DEFAULT
from slhf_server.refinement.own_leader import callable_tools, demanded_call, template_options
from slhf_server.refinement.request_log import RequestLog
from slhf_server.refinement.stops import Thresholds, rules_of
from slhf_server.refinement.wishes import Wishes, obstacle, wishes, with_instruction
from slhf_server.settings.endpoints import OWN_ENGINE
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.profiles import NO_PROFILE, Profile
from slhf_server.settings.server import ServedModel, Settings

_ID_PREFIX: dict[Endpoint, str] = {
    "chat": "chatcmpl",
    "completions": "cmpl",
    "messages": "msg",
    "refine": "refine",
    "responses": "resp",
}
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
    keys_profile: str | None = None
    """What the API key's entry names."""
    priority: int | None = None
    """What the body says; `sampling` has what holds (api/planning.py)."""
    counts_tokens: bool = False
    """See `Job.counts_tokens`."""
    cache_salt: str | None = None
    """See `Job.cache_salt`."""
    log: RequestLog = field(default_factory=RequestLog)
    """The request's line in the log."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The headers that name the caller's span."""
    no_store: bool = False
    """Whether the client wants nothing kept of it."""
    check_supported: Callable[[Drafter], None] = lambda drafter: None
    """Raises BadRequest for a parameter that the draft's writer cannot take."""


class Planner:
    """Knows the served models and their limits."""

    def __init__(
        self,
        settings: Settings,
        engines: Mapping[str, Engine],
        upstreams: Mapping[str, ChatModel],
        workers: Workers | None = None,
        judges: Mapping[str, Judge] | None = None,
    ) -> None:
        """`engines` by the names of `ServedModel.follower`. `workers` check the grammar of a call that is demanded.

        Raises SettingsError for a served model that asks for more than its bundle knows.
        """
        self._settings = settings
        self._engines = engines
        self._upstreams = upstreams
        self._workers = workers or Workers()
        self._judges = judges or {}
        own = engines.get(OWN_ENGINE)
        self.served = settings.served(settings.bundle if own is None else own.manifest.name)
        self.names = {name: name for name in self.served}
        """Every name that a client may ask for, with the served model's own; that one is counted and answered."""
        self.names |= {alias: name for name, model in self.served.items() for alias in model.aliases}
        self._limits = {name: settings.limits_of(model) for name, model in self.served.items()}
        for name, served in self.served.items():
            manifest = engines[served.follower].manifest
            if problem := obstacle(wishes(RefineOptions(), served, manifest), served, manifest):
                raise SettingsError(f"models.{name}.{problem[0]}: {problem[1]}")

    def plan(self, params: RefineParams) -> list[Job]:
        """A job for each choice. Raises ModelNotFound and BadRequest, naming the parameter, and EngineUnavailable."""
        name, served = self._find(params.model)
        self._engines[served.follower].check()
        drafter = self._drafter(served, params.options)
        params.check_supported(drafter)
        conversation.check(params.messages)
        conversation.log_unread(params.messages)
        choices = _limited("n", params.choices, None, self._settings.limits.choices)
        profile = self._profile(served, params)
        if profile is not None:
            filled = _filled(params.options, profile, self._settings.profiles[profile], self._limits[name].rounds)
            params = replace(params, options=filled)
        shared = self._job(name, served, params, drafter, profile)
        return [shared, *(_another(shared, number) for number in range(1, choices))]

    def cards(self, *, created: int) -> list[ModelCard]:
        """Every served model, and every alias, whose engine has answered. Raises EngineUnavailable where none has."""
        found, away = [], None
        for name in self.names:
            try:
                found.append(self.card(name, created=created))
            except EngineUnavailable as exc:
                away = exc
        if away is not None and not found:
            raise away
        return found

    def name_of(self, model: str) -> str:
        """The served model's own name. Raises ModelNotFound."""
        return self._find(model)[0]

    @property
    def revisions(self) -> dict[str, str]:
        """Of each served model's weights."""
        engines = {name: self._engines[served.follower] for name, served in self.served.items()}
        return {name: engine.manifest.revision or "unknown" for name, engine in engines.items()}

    def card(self, name: str, *, created: int) -> ModelCard:
        """A served model as `GET /v1/models` shows it under a name or an alias.

        Raises ModelNotFound and EngineUnavailable.
        """
        own, served = self._find(name)
        engine, limits = self._engines[served.follower], self._limits[own]
        manifest = engine.manifest
        return ModelCard(
            id=name,
            created=created,
            root=manifest.root,
            parent=None if name == own else own,
            max_model_len=engine.max_model_len,
            card=manifest.card(),
            drafts=served.leader != "none",
            rounds=served.rounds,
            limits=ModelLimits(
                rounds=limits.rounds, max_total_tokens=limits.max_total_tokens, timeout_ms=limits.timeout_ms
            ),
            judge=None
            if served.judge is None
            else JudgeCard(name=served.judge, kind=self._settings.judges[served.judge].kind),
            profile=served.profile,
            profiles=[*self._settings.profiles],
        )

    def tokenizer(self, model: str | None) -> tuple[Tokenizer, int]:
        """What makes the tokens of a served model's prompts, and how many fit into its context.

        Raises ModelNotFound, EngineUnavailable, and BadRequest for a model whose Leader is an upstream, which has a
        tokenizer of its own.
        """
        name, served = self._find(model)
        if served.leader in self._upstreams:
            raise BadRequest(f"model {name!r}: its Leader, and so its tokenizer, is on another server", param="model")
        engine = self._engines[served.follower]
        return engine.tokenizer, engine.max_model_len

    def tools(self, model: str | None, asked: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The tools that a Leader on the engine is told of, by chat's parameters. Raises as `plan` does."""
        _, served = self._find(model)
        tools, _ = callable_tools(asked, self._engines[served.follower], self._settings.tools)
        return () if tools is None else tools.offered

    def _find(self, model: str | None) -> tuple[str, ServedModel]:
        asked = next(iter(self.served)) if model is None else model
        if asked not in self.names:
            served = ", ".join(self.names)
            raise ModelNotFound(f"The model {asked[:200]!r} does not exist; served: {served}", param="model")
        name = self.names[asked]
        return name, self.served[name]

    def _drafter(self, served: ServedModel, options: RefineOptions) -> Drafter:
        if options.draft is not None:
            return "client"
        return "upstream" if served.leader in self._upstreams else "engine"

    def _profile(self, served: ServedModel, params: RefineParams) -> str | None:
        """The request's, else its key's, else its model's. Raises BadRequest."""
        named = (params.options.profile, params.keys_profile, served.profile, NO_PROFILE)
        chosen = next(name for name in named if name is not None)
        if chosen == NO_PROFILE:
            return None
        if chosen not in self._settings.profiles:
            raise BadRequest("profile: there is none of that name; GET /v1/models lists them", param="profile")
        return chosen

    def _job(
        self, name: str, served: ServedModel, params: RefineParams, drafter: Drafter, profile: str | None = None
    ) -> Job:
        options, limits, engine = params.options, self._limits[name], self._engines[served.follower]
        manifest = engine.manifest
        rounds = _limited("rounds", options.rounds, served.rounds, limits.rounds)
        conversation.check_parts(params.messages, drafter)
        if served.images == "pass_through" and any(message.others for message in params.messages):
            rounds = 0
        rounds, shadow_rounds = (0, rounds) if served.shadow is not None else (rounds, 0)
        timeout_s = _limited("timeout_ms", options.timeout_ms, None, limits.timeout_ms) / 1e3
        turns = conversation.as_text(params.messages)
        wished = wishes(options, served, manifest)
        judging = self._judging(served, wished, manifest, with_instruction(turns, options.instruction))
        leading, following, ignored = self._sampling(params, engine, drafter, rounds)
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
            leader=self._leader(name, served, leading, drafter),
            follower=RoleBinding("follower", engine.follower, following, manifest.keeps_by_silence),
            follower_turn=follower_turn(manifest.follower_turn, options.instruction),
            instruction=options.instruction,
            received=time.perf_counter(),
            deadline=Deadline.after(timeout_s),
            max_total_tokens=_limited("max_total_tokens", options.max_total_tokens, None, limits.max_total_tokens),
            fail_on_error=options.on_error == "fail",
            stops=rules_of(wished.stop_when, self._thresholds(served, manifest)),
            structure=params.sampling.structure,
            kept=() if options.instruction else BY_DEFAULT if served.keep is None else served.keep,
            kept_by_operator=served.keep or (),
            holds_back=wished.selects or (bool(served.keep) and not options.instruction),
            judging=judging,
            deltas=params.deltas,
            tools_ignored=ignored,
            profile=profile,
            draft_thinks=served.draft_thinks,
            counts_tokens=params.counts_tokens or options.timeout_ms is not None,
            no_store=params.no_store,
            shadow_rounds=shadow_rounds,
            timeout_s=timeout_s,
            cache_salt=params.cache_salt,
            log=params.log,
            trace=params.trace,
        )

    def _judging(
        self, served: ServedModel, wished: Wishes, manifest: Bundle, turns: tuple[Turn, ...]
    ) -> Judging | None:
        """Who judges, if anybody is to. Raises BadRequest for what this model cannot do."""
        if problem := obstacle(wished, served, manifest):
            raise BadRequest(f"{problem[0]}: {problem[1]}", param=problem[0])
        if served.judge is None or not wished.asks:
            return None
        measured = manifest.stop_rules.select
        margin = self._settings.judges[served.judge].margin if measured is None else measured.margin
        return Judging(self._judges[served.judge], turns, margin, wished.selects)

    def _thresholds(self, served: ServedModel, manifest: Bundle) -> Thresholds:
        """The bundle's own, as they were measured for it; the judge's setting where it has none for `judge_sure`."""
        edits, sure = manifest.stop_rules.small_edit, manifest.stop_rules.judge_sure
        set_here = None if served.judge is None else self._settings.judges[served.judge].sure
        return Thresholds(None if edits is None else edits.edit_ratio, set_here if sure is None else sure.p)

    def _sampling(
        self, params: RefineParams, engine: Engine, drafter: Drafter, rounds: int
    ) -> tuple[SamplingParams, SamplingParams, bool]:
        """The Leader's sampling, the Follower's, and whether tools were left out."""
        asked = params.sampling.upstream_params
        if drafter != "engine":
            return params.sampling, _followers(params), False
        tools, ignored = callable_tools(asked, engine, self._settings.tools)
        options = template_options(asked, engine)
        leading = replace(params.sampling, tools=tools, upstream_params={}, template_options=options)
        if tools is not None and (rounds or tools.forced):  # an answer is bound, a turn that may call is not
            leading = replace(leading, structure=demanded_call(tools, self._workers))
        return leading, _followers(params, template_options=options), ignored

    def _leader(self, name: str, served: ServedModel, sampling: SamplingParams, drafter: Drafter) -> RoleBinding | None:
        if drafter == "client":
            return None
        if served.leader == "none":
            raise BadRequest(f"model {name!r} has no Leader: give a draft", param="draft")
        model = self._upstreams[served.leader] if drafter == "upstream" else self._engines[served.follower].leader
        return RoleBinding("leader", model, sampling)


def _run_id() -> str:
    return secrets.token_hex(8)


def _another(job: Job, number: int) -> Job:
    """The job of a further chain: the engine knows it by another id, and its copy of the deadline wakes it alone."""
    return replace(job, choice=number, run_id=_run_id(), deadline=job.deadline.copy())


def _followers(params: RefineParams, **more: Any) -> SamplingParams:
    """The request's sampling without what an upstream alone takes, and with what `refine` says for the Follower."""
    own = {name: value for name in _OWN if (value := getattr(params.options, name)) is not None}
    return replace(params.sampling, upstream_params={}, **own, **more)


def _filled(options: RefineOptions, name: str, profile: Profile, most_rounds: int) -> RefineOptions:
    """The options, with the profile's where the request says nothing. Raises BadRequest for more rounds than may be."""
    said = profile.model_dump(exclude_none=True)
    if options.rounds is None and said.get("rounds", 0) > most_rounds:
        message = f"profile: {name!r} asks for {profile.rounds} rounds, and this model allows at most {most_rounds}"
        raise BadRequest(message, param="profile")
    return options.model_copy(update={name: value for name, value in said.items() if getattr(options, name) is None})


def _limited(name: str, asked: int | None, default: int | None, limit: int) -> int:
    """What was asked, else the default, else the limit. Asking for more than the limit is an error, not a cut."""
    if asked is not None and asked > limit:
        raise BadRequest(f"{name} is {asked}, and this server allows at most {limit}", param=name)
    return next(value for value in (asked, default, limit) if value is not None)
