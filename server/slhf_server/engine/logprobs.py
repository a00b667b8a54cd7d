"""vLLM's log-probabilities as OpenAI writes them."""

from collections.abc import Iterator, Mapping, Sequence

from vllm.logprobs import Logprob

from slhf.wire import TokenLogprob, TopLogprob
from slhf_server.engine.prompt import PromptEncoder

_LEAST = -9999.0  # JSON has no infinity; vLLM's own server writes this


def token_logprobs(
    token_ids: Sequence[int], positions: Sequence[Mapping[int, Logprob]], most: int, encoder: PromptEncoder
) -> Iterator[TokenLogprob]:
    """Yield an entry for each token, with the `most` likeliest ones in its place, likeliest first.

    `positions` has vLLM's candidates by token id; the chosen one is among them even where it is not likely.
    """
    for token_id, candidates in zip(token_ids, positions, strict=True):
        likeliest = sorted((c.rank, i, c) for i, c in candidates.items() if c.rank is not None and c.rank <= most)
        chosen = _entry(token_id, candidates[token_id], encoder)
        top = [_entry(i, candidate, encoder) for _, i, candidate in likeliest[:most]]
        yield TokenLogprob(**dict(chosen), top_logprobs=top)


def _entry(token_id: int, candidate: Logprob, encoder: PromptEncoder) -> TopLogprob:
    """One token's entry. Its text is what the token completes: empty for a part of a character, which `bytes` shows."""
    return TopLogprob(
        token=candidate.decoded_token or "",
        logprob=max(candidate.logprob, _LEAST),
        bytes=list(encoder.token_bytes(token_id)),
    )
