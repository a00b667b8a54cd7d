"""A row of the dashboard *Refinement*: whether refined texts would be better than what users get in shadow mode."""

from boards import Section
from panels import lines
from promql import rate, selector, total

LOW, HIGH, QUEUE = "slhf_win_rate_low", "slhf_win_rate_high", "slhf_shadow_queue"
SHADOW, TOKENS = "slhf_shadow_total", "slhf_shadow_tokens_total"


def shadow() -> Section:
    return (
        "Shadow: would refined texts be better than the drafts that users get?",
        [
            lines(
                "Win rate in the shadow",
                "Between the lines lies the share of decisive verdicts that the refined text wins, at 95 %, however "
                "often you look. Both above the objective: refine. Both below: do not. From 0 to 1: nothing is known.",
                "percentunit",
                (f"min by (model_name) ({selector(LOW)})", "{{model_name}}: at least"),
                (f"max by (model_name) ({selector(HIGH)})", "{{model_name}}: at most"),
                ("slhf:objective_win_rate", "objective: above"),
                most=1,
            ),
            lines(
                "In the shadow",
                "Sampled requests of models in shadow mode. skipped: left out on purpose; dropped: no room, or a "
                "shutdown; failed: the log has each. Many dropped: lower the share or raise concurrent.",
                "reqps",
                (rate(SHADOW, "result, reason"), "{{result}}: {{reason}}"),
                stacked=True,
            ),
            lines(
                "Waiting in the shadow",
                "Drafts whose refinement nobody waits for. At 32 further ones are dropped.",
                "short",
                (total(QUEUE, "model_name"), "{{model_name}}"),
            ),
            lines(
                "Tokens in the shadow",
                "What refinements and the judge spend on it, prompts included; the shadow ends at its limit.",
                "short",
                (rate(TOKENS, "phase"), "{{phase}} per second"),
                stacked=True,
            ),
        ],
    )
