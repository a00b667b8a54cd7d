"""The dashboard *Refinement*: what users get, from top to bottom in the order of the questions at night."""

from boards import Section, Variable, board, objective
from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import AMBER, GREEN, LEVELS, RED, Step, heat, lines, number, quantiles
from promql import mean, quantile, rate, selector, total
from shadow import shadow
from traffic import load, servers, tokens, upstreams

E2E, FIRST = "slhf_e2e_request_latency_seconds", "slhf_time_to_first_token_seconds"
ROUND, QUEUE, OVERHEAD = "slhf_round_latency_seconds", "slhf_request_queue_time_seconds", "slhf_overhead_seconds"
SUCCESS, FAILURE = "slhf_request_success_total", "slhf_request_failure_total"
LOST = "slhf_rounds_lost_total"
STOPS, FALLBACKS, ROUNDS = "slhf_stop_reason_total", "slhf_fallback_total", "slhf_rounds_total"
VERDICTS, CHOSEN = "slhf_verdicts_total", "slhf_selected_round_total"
JUDGE, JUDGE_TOKENS = "slhf_judge_latency_seconds", "slhf_judge_tokens_total"
EDIT, LENGTH = "slhf_draft_edit_ratio", "slhf_draft_length_ratio"
RUNNING, WAITING = "slhf_num_requests_running", "slhf_num_requests_waiting"
OUR_ERRORS = (
    "internal_error",
    "engine_error",
    "engine_unavailable",
    "upstream_error",
    "upstream_unavailable",
    "verdicts_unavailable",
    "deadline_exceeded",
    "server_error",
)
OURS = f'error_type=~"{"|".join(OUR_ERRORS)}"'
NO_TOOLS = 'reason!="tool_calls"'
FOLLOWER = 'role="follower"'
UNCHANGED, FINISHED = 'outcome="unchanged"', 'outcome=~"changed|unchanged|lost"'

VARIABLES = [
    Variable("model_name", "Model", "slhf_num_requests_running"),
    Variable("endpoint", "Endpoint", SUCCESS),
    Variable("upstream", "Upstream", "slhf_upstream_breaker_open"),
    Variable("role", "Role", "slhf_round_latency_seconds_count"),
    Variable("round", "Round", "slhf_round_latency_seconds_count"),
    Variable("phase", "Phase", "slhf_prompt_tokens_total"),
    Variable("reason", "Stop reason", STOPS),
    Variable("outcome", "Round outcome", ROUNDS),
    Variable("part", "Lost", "slhf_rounds_lost_total"),
    Variable("result", "In the shadow", "slhf_shadow_total"),
    Variable("judge", "Judge", VERDICTS),
    Variable("use", "Verdict for", VERDICTS),
    Variable("verdict", "Verdict", VERDICTS),
    Variable("kind", "Judge's tokens", JUDGE_TOKENS),
    Variable("source", "Draft from", "slhf_draft_source_total"),
    Variable("finish_reason", "Finish reason", SUCCESS),
    Variable("key", "API key", "slhf_key_requests_total"),
    Variable("error_type", "Error", '{__name__=~"slhf_request_failure_total|slhf_upstream_errors_total"}'),
]


def refinement() -> Dashboard:
    description = "Refinements as their users see them: latency, rounds, drift, tokens, errors, upstreams."
    own = [_now(), _latency(), _rounds(), _judges(), shadow(), _drift()]
    return board("slhf-refinement", description, VARIABLES, [*own, load(), upstreams(), tokens(), servers()])


def _above(limit: float) -> list[Step]:
    return [(None, GREEN), (limit / 2, AMBER), (limit, RED)]


def _now() -> Section:
    errors, answers = f"({rate(FAILURE, '', OURS)} or vector(0))", f"({rate(SUCCESS)} or vector(0))"
    stops = rate(STOPS)
    fallbacks = f"({rate(FALLBACKS, '', NO_TOOLS)} or 0 * {stops}) / {stops}"
    return (
        "",
        [
            number(
                "Alerts firing",
                "Alerts of deploy/prometheus/rules that fire now. docs/monitoring.md says what to do about each.",
                "none",
                'count(ALERTS{alertstate="firing", alertname=~"Slhf.*"}) or vector(0)',
                [(None, GREEN), (1, RED)],
            ),
            number(
                "Servers down",
                "Targets that Prometheus cannot scrape: the process is gone, or the network to it.",
                "none",
                f"count({selector('up')} == 0) or vector(0)",
                [(None, GREEN), (1, RED)],
            ),
            number(
                "Servers ready",
                "Servers with a loaded engine. A server that is up but not counted here is still loading.",
                "none",
                f"count({selector('slhf_model_info', '', FOLLOWER)}) or vector(0)",
                [(None, RED), (1, GREEN)],
            ),
            number(
                "Refinements per second",
                "Refinements that ended with a text, per second.",
                "reqps",
                answers,
                [(None, "blue")],
                decimals=2,
            ),
            number(
                "Error share",
                "Requests answered by an error of ours or an upstream's (status 500 and above), not the clients' own. "
                "Red: above the objective.",
                "percentunit",
                f"{errors} / ({errors} + {answers})",
                _above(objective("error_ratio")),
                decimals=1,
            ),
            number(
                "p95 latency",
                "19 of 20 refinements take less than this, queue and all rounds included. Red: above the objective.",
                "s",
                quantile(0.95, E2E),
                _above(objective("e2e_p95_seconds")),
                decimals=1,
            ),
            number(
                "Ended early",
                "Refinements that returned an earlier text than was asked for (deadline, budget, context, error). "
                "Red: above the objective.",
                "percentunit",
                fallbacks,
                _above(objective("fallback_ratio")),
                decimals=1,
            ),
            number(
                "Waiting",
                "Refinements in the queue now. Above zero for minutes: the server is full.",
                "none",
                total(WAITING),
                [(None, GREEN), (1, AMBER), (32, RED)],
            ),
        ],
    )


def _latency() -> Section:
    return (
        "Latency: how long do users wait, and for what?",
        [
            quantiles(
                "Refinement, end to end",
                "From arrival to the end of the answer: queue, draft and all rounds. Dashed: the objective of p95.",
                E2E,
                ("slhf:objective_e2e_p95_seconds", "objective"),
            ),
            heat(
                "Refinement, end to end: spread",
                "How many refinements took how long. Two bands are two kinds of requests, which p95 hides.",
                "s",
                E2E,
            ),
            quantiles(
                "Time to first token",
                "Streamed answers: from arrival to the first piece. Grows with the queue and the rounds before it.",
                FIRST,
            ),
            quantiles(
                "One round",
                "Of the rounds and roles chosen above. Round 0 is the draft, unless the client brings it.",
                ROUND,
            ),
            lines(
                "p95 of each round",
                "A slow round 0 with role leader may be an upstream; slow later rounds are the engine.",
                "s",
                (quantile(0.95, ROUND, "role, round"), "{{role}} {{round}}"),
            ),
            heat("One round: spread", "How many rounds took how long.", "s", ROUND),
            lines(
                "Waiting for a place",
                "In the queue, before anything runs; grows when the server is full. The mean is exact; percentiles "
                "below 0.3 s are not to be believed, because the histogram begins there.",
                "s",
                (mean(QUEUE), "mean"),
                (quantile(0.95, QUEUE), "p95"),
                (quantile(0.99, QUEUE), "p99"),
            ),
            lines(
                "Overhead",
                "The server's own work in a refinement: no model at work, no queue. Above 50 ms: look at its CPU.",
                "s",
                *((quantile(level, OVERHEAD), name) for name, level in LEVELS.items()),
            ),
            lines(
                "Running and waiting",
                "Refinements under way and in the queue.",
                "short",
                (total(RUNNING), "running"),
                (total(WAITING), "waiting"),
            ),
        ],
    )


def _rounds() -> Section:
    return (
        "Rounds: do refinements run to their end?",
        [
            lines(
                "Stop reasons",
                "Why refinements ended. All but rounds_done, disabled, shadowed, tool_calls and what stop_when asks "
                "for (unchanged, small_edit, no_gain, judge_sure) ended early.",
                "reqps",
                (rate(STOPS, "reason"), "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Ended early, by reason",
                "Share of all refinements. error: engine or upstream; deadline, token_budget: the request's limits.",
                "percentunit",
                (f"{rate(FALLBACKS, 'reason', NO_TOOLS)} / on () group_left () {rate(STOPS)}", "{{reason}}"),
                ("slhf:objective_fallback_ratio", "objective of the sum"),
                stacked=True,
            ),
            lines(
                "Rounds by outcome",
                "changed and unchanged count; lost left the draft; discarded was cut or refused by a limit; error.",
                "ops",
                (rate(ROUNDS, "outcome"), "{{outcome}}"),
                stacked=True,
            ),
            lines(
                "Rounds that lost something",
                "Share of finished Follower rounds that left their draft, by what they had lost of it. Much of one "
                "part: the Follower does not suit these drafts.",
                "percentunit",
                (f"{rate(LOST, 'part')} / on () group_left () {rate(ROUNDS, '', FINISHED)}", "{{part}}"),
                stacked=True,
            ),
            lines(
                "Rounds per request",
                "Finished Follower rounds of a refinement, mean. What a request costs grows with it.",
                "none",
                (mean("slhf_request_rounds", "model_name"), "{{model_name}}"),
            ),
            heat(
                "Rounds per request: spread",
                "How many refinements had how many Follower rounds.",
                "none",
                "slhf_request_rounds",
            ),
            lines(
                "Who wrote the draft",
                "The bundle's Leader, an upstream, or the client.",
                "reqps",
                (rate("slhf_draft_source_total", "source"), "{{source}}"),
                stacked=True,
            ),
        ],
    )


def _judges() -> Section:
    return (
        "Judges: are rounds better than what was there before them?",
        [
            lines(
                "Verdicts",
                "refined: the round's text is the better one; draft: the best text before it is. The others are no "
                "verdict. failed: answers of select: judge are then the best text before, often the draft.",
                "ops",
                (rate(VERDICTS, "use, verdict"), "{{use}}: {{verdict}}"),
                stacked=True,
            ),
            lines(
                "Rounds that were chosen",
                "Refinements with a judge, by the round that was the answer. 0 is the draft: nothing was gained.",
                "reqps",
                (rate(CHOSEN, "round"), "round {{round}}"),
                stacked=True,
            ),
            quantiles(
                "Judge's time",
                "One verdict, both orders at once. It is a part of the latency of its refinement.",
                JUDGE,
            ),
            lines(
                "Judge's tokens",
                "Of prompts and of replies, by judge. A reward model reports none.",
                "short",
                (rate(JUDGE_TOKENS, "judge, kind"), "{{judge}} {{kind}}"),
                stacked=True,
            ),
        ],
    )


def _drift() -> Section:
    deciles = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
    return (
        "Drift: does the Follower do what it did?",
        [
            lines(
                "Length of answer / draft",
                "In words. The mean above 2 or below 0.5 is not refinement any more: a wrong bundle, or other drafts.",
                "none",
                *((quantile(level, LENGTH), name) for name, level in deciles.items()),
                (mean(LENGTH), "mean"),
                ("slhf:objective_length_ratio_low", "objective: mean above"),
                ("slhf:objective_length_ratio_high", "objective: mean below"),
            ),
            lines(
                "Share of words changed",
                "From draft to answer. Near 0: the Follower repeats drafts. Near 1: it ignores them.",
                "percentunit",
                *((quantile(level, EDIT), name) for name, level in deciles.items()),
                (mean(EDIT), "mean"),
                most=1,
            ),
            lines(
                "Unchanged rounds",
                "Share of finished Follower rounds that returned their draft as it was.",
                "percentunit",
                (
                    f"({rate(ROUNDS, 'model_name', UNCHANGED)} or 0 * {rate(ROUNDS, 'model_name')}) / "
                    f"{rate(ROUNDS, 'model_name', FINISHED)}",
                    "{{model_name}}",
                ),
                most=1,
            ),
        ],
    )
