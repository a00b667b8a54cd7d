"""The dashboard *Engine*: vLLM inside the server."""

from boards import Section, Variable, board
from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import AMBER, GREEN, RED, heat, lines, number, quantiles
from promql import mean, quantile, rate, selector, share, total

KV, RUNNING, WAITING = "vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"
HITS, QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
GENERATED, PROMPT = "vllm:generation_tokens_total", "vllm:prompt_tokens_total"
BETWEEN, FIRST = "vllm:inter_token_latency_seconds", "vllm:time_to_first_token_seconds"
GUESSED, ACCEPTED = "vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"
GUESSES, BY_POSITION = "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_per_pos_total"

VARIABLES = [Variable("model_name", "Model", RUNNING, "engine_model"), Variable("engine", "Engine", RUNNING)]


def engine() -> Dashboard:
    description = "vLLM inside the server. A refinement is several of its completions: the draft, and each round."
    return board("slhf-engine", description, VARIABLES, [_now(), _speed(), _memory(), _speculation(), _work()])


def _now() -> Section:
    return (
        "",
        [
            number(
                "KV cache used",
                "The fullest engine. Near 100 %: requests wait, or are preempted and computed again.",
                "percentunit",
                f"max({selector(KV)})",
                [(None, GREEN), (0.8, AMBER), (0.95, RED)],
            ),
            number("Running", "Completions in the batch now.", "none", total(RUNNING), [(None, "blue")]),
            number(
                "Waiting",
                "Completions that vLLM holds back. Refinements wait in the server's own queue before this one.",
                "none",
                total(WAITING),
                [(None, GREEN), (1, AMBER), (16, RED)],
            ),
            number(
                "Generated tokens/s",
                "Of all engines together.",
                "short",
                rate(GENERATED),
                [(None, "blue")],
            ),
            number(
                "p95 between tokens",
                "How long a reader of a stream waits for the next token.",
                "s",
                quantile(0.95, BETWEEN),
                [(None, GREEN), (0.2, AMBER), (0.5, RED)],
                decimals=2,
            ),
            number(
                "Prefix cache hits",
                "Share of prompt tokens found in the cache. Low: the cache is too small.",
                "percentunit",
                share(HITS, QUERIES),
                [(None, RED), (0.2, AMBER), (0.4, GREEN)],
            ),
            number(
                "Guesses accepted",
                "Share of speculated tokens that the model confirmed. Falls when answers leave their drafts.",
                "percentunit",
                share(ACCEPTED, GUESSED),
                [(None, AMBER), (0.2, GREEN)],
            ),
            number(
                "Preemptions",
                "In the last minutes: requests thrown out of the cache, to be computed again for want of room.",
                "none",
                f"sum(increase({selector('vllm:num_preemptions_total')}[$__rate_interval]))",
                [(None, GREEN), (1, RED)],
            ),
        ],
    )


def _speed() -> Section:
    return (
        "Speed: how fast are completions?",
        [
            quantiles("Between tokens", "From one token of a completion to the next.", BETWEEN),
            heat("Between tokens: spread", "How many tokens took how long.", "s", BETWEEN),
            quantiles("To the first token", "Of one completion: waiting in vLLM, and reading the prompt.", FIRST),
            quantiles("One completion", "A draft or a round, as vLLM sees it.", "vllm:e2e_request_latency_seconds"),
            lines(
                "Where a completion's time goes",
                "Means. queue: waiting for the batch; prefill: reading the prompt; decode: writing.",
                "s",
                (mean("vllm:request_queue_time_seconds"), "queue"),
                (mean("vllm:request_prefill_time_seconds"), "prefill"),
                (mean("vllm:request_decode_time_seconds"), "decode"),
                stacked=True,
            ),
            lines(
                "Completions by end",
                "abort: the client left, or a limit of the refinement ended it.",
                "reqps",
                (rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"),
                stacked=True,
            ),
        ],
    )


def _memory() -> Section:
    return (
        "Memory: is there room?",
        [
            lines(
                "KV cache used",
                "Share of the blocks. At 1 nothing new starts.",
                "percentunit",
                (f"max by (instance, engine) ({selector(KV)})", "{{instance}} {{engine}}"),
                most=1,
            ),
            lines(
                "Running and waiting",
                "Completions in the batch, and held back by vLLM.",
                "short",
                (total(RUNNING), "running"),
                (total(WAITING), "waiting"),
            ),
            lines(
                "Held back, and why",
                "capacity: no room in batch or cache; deferred: waits for something else (an adapter, a grammar).",
                "short",
                (total("vllm:num_requests_waiting_by_reason", "reason"), "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Prefix cache hits",
                "Share of prompt tokens that were there already.",
                "percentunit",
                (share(HITS, QUERIES, "instance"), "{{instance}}"),
                most=1,
            ),
            lines(
                "Preemptions",
                "Requests thrown out of the cache, per second. Any is too many.",
                "ops",
                (rate("vllm:num_preemptions_total", "instance"), "{{instance}}"),
            ),
            lines(
                "Memory of the server's process",
                "Resident. On a GPU the model lies elsewhere; on a CPU the engine is a process of its own.",
                "bytes",
                (selector("process_resident_memory_bytes"), "{{instance}}"),
            ),
        ],
    )


def _speculation() -> Section:
    return (
        "Speculation: does the draft guess the answer?",
        [
            lines(
                "Acceptance",
                "Confirmed of all guessed tokens. The draft is the guess, so it falls when answers are rewritten.",
                "percentunit",
                (share(ACCEPTED, GUESSED, "instance"), "{{instance}}"),
                most=1,
            ),
            lines(
                "Acceptance by position",
                "How far guesses hold. If the last positions are near 0, fewer tokens should be guessed.",
                "percentunit",
                (f"{rate(BY_POSITION, 'position')} / on () group_left () {rate(GUESSES)}", "token {{position}}"),
                most=1,
            ),
            lines(
                "Tokens gained per step",
                "Confirmed guesses for each step that guessed: each is a step of the model saved.",
                "none",
                (f"{rate(ACCEPTED)} / {rate(GUESSES)}", "tokens"),
            ),
        ],
    )


def _work() -> Section:
    return (
        "Work: what keeps it busy?",
        [
            lines(
                "Tokens per second",
                "computed: prompt tokens that had to be read; cached: found in the cache; generated: written.",
                "short",
                (f"{rate(PROMPT)} - {rate('vllm:prompt_tokens_cached_total')}", "computed"),
                (rate("vllm:prompt_tokens_cached_total"), "cached"),
                (rate(GENERATED), "generated"),
                stacked=True,
            ),
            lines(
                "Tokens per step",
                "Mean size of a step of the engine: prompts and new tokens of all completions in the batch.",
                "short",
                (mean("vllm:iteration_tokens_total"), "tokens"),
            ),
            lines(
                "Length of prompts and answers",
                "Tokens of a completion, means. Follower rounds have the draft in their prompt.",
                "short",
                (mean("vllm:request_prompt_tokens"), "prompt"),
                (mean("vllm:request_generation_tokens"), "generated"),
            ),
        ],
    )
