"""The lower half of the dashboard *Refinement*: who asks, what other servers say, what it costs, what runs where."""

from boards import Section
from panels import GREEN, LEVELS, RED, lines, listing, states
from promql import WHERE, quantile, rate, selector, share

SUCCESS, FAILURE, STOPS = "slhf_request_success_total", "slhf_request_failure_total", "slhf_stop_reason_total"
UPSTREAM, UPSTREAM_ERRORS = "slhf_upstream_request_latency_seconds", "slhf_upstream_errors_total"
PROMPT, GENERATED = "slhf_prompt_tokens_total", "slhf_generation_tokens_total"


def load() -> Section:
    return (
        "Load and errors: who asks, and who is refused?",
        [
            lines(
                "Refinements by endpoint",
                "That ended with a text.",
                "reqps",
                (rate(SUCCESS, "endpoint"), "{{endpoint}}"),
                stacked=True,
            ),
            lines(
                "Finish reasons",
                "length: the answer was cut by max_tokens or the context.",
                "reqps",
                (rate(SUCCESS, "finish_reason"), "{{finish_reason}}"),
                stacked=True,
            ),
            lines(
                "Failures by type",
                "Requests answered by an error, clients' own included. rate_limit_exceeded: queue or key full.",
                "reqps",
                (rate(FAILURE, "error_type"), "{{error_type}}"),
                stacked=True,
            ),
            lines(
                "Tokens by API key",
                "Used by each key, with metrics_by_key: on. Prompt and generated tokens, failed requests' too.",
                "short",
                (rate("slhf_key_prompt_tokens_total", "key"), "{{key}} prompt"),
                (rate("slhf_key_generation_tokens_total", "key"), "{{key}} generated"),
                stacked=True,
            ),
            lines(
                "Requests by API key",
                "That were let in, with metrics_by_key: on.",
                "reqps",
                (rate("slhf_key_requests_total", "key"), "{{key}}"),
                stacked=True,
            ),
            lines(
                "Store of limits away",
                "Questions that it did not answer, by server. Above zero: keys are limited by each replica alone.",
                "ops",
                (rate("slhf_limits_store_errors_total", "instance"), "{{instance}}"),
            ),
            lines(
                "Tools left out",
                "Refinements that offered tools to a Leader that can call none: users may believe that it can.",
                "reqps",
                (rate("slhf_tools_ignored_total", "model_name"), "{{model_name}}"),
            ),
        ],
    )


def upstreams() -> Section:
    return (
        "Upstreams: do other servers answer?",
        [
            lines(
                "Upstream latency",
                "A whole answer of an upstream, without waiting and failed attempts.",
                "s",
                *(
                    (quantile(level, UPSTREAM, "upstream"), f"{{{{upstream}}}} {name}")
                    for name, level in LEVELS.items()
                ),
            ),
            lines(
                "Failed attempts",
                "Retried ones included. breaker_open: turned away without an attempt.",
                "ops",
                (rate(UPSTREAM_ERRORS, "upstream, error_type"), "{{upstream}} {{error_type}}"),
                stacked=True,
            ),
            states(
                "Breaker",
                "Open: the upstream is left alone after failures, and tried again when somebody asks for it.",
                (f"max by (upstream) ({selector('slhf_upstream_breaker_open')})", "{{upstream}}"),
                {"0": ("closed", GREEN), "1": ("open", RED)},
            ),
        ],
    )


def tokens() -> Section:
    return (
        "Tokens: what does it cost?",
        [
            lines(
                "Tokens per second",
                "Counted when a refinement ends. draft: the Leader's or upstream's; refine: all Follower rounds.",
                "short",
                (rate(PROMPT, "phase"), "prompt, {{phase}}"),
                (rate(GENERATED, "phase"), "generated, {{phase}}"),
                stacked=True,
            ),
            lines(
                "Cached share of prompt tokens",
                "Prompt tokens that the prefix cache had. Rounds repeat the conversation, so it should be high.",
                "percentunit",
                (share("slhf_prompt_cached_tokens_total", PROMPT, "phase"), "{{phase}}"),
                most=1,
            ),
            lines(
                "Generated tokens per refinement",
                "All rounds together. Cost per request.",
                "short",
                (f"{rate(GENERATED, 'model_name')} / {rate(STOPS, 'model_name')}", "{{model_name}}"),
            ),
        ],
    )


def servers() -> Section:
    where = ", ".join(WHERE)
    return (
        "Servers: what runs where?",
        [
            listing(
                "Versions",
                "The server's version and the bundle's revision. Two of either: a deploy is under way, or stuck.",
                f"{selector('slhf_model_info')} * on ({where}) group_left (version) {selector('slhf_build_info')}",
                ["instance", "role", "revision", "version"],
            ),
            lines(
                "CPU of the server's process",
                "In cores; the API runs in one. Near 1: requests wait for the server itself.",
                "none",
                (f"rate({selector('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
            ),
            lines(
                "Time of a scrape",
                "How long /metrics took to answer Prometheus: as long as a short request waits for the event loop.",
                "s",
                (selector("scrape_duration_seconds"), "{{instance}}"),
            ),
        ],
    )
