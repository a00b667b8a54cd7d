"""What a sampler should do, written independently of vLLM, and the test that says whether it did."""

import torch


def exact_probabilities(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, min_p: float = 0.0
) -> torch.Tensor:
    """Temperature, then min_p, then top_k, then top_p, in float64; same shape as `logits`: (..., V)."""
    probs = (logits.double() / temperature).softmax(-1)
    probs[probs < min_p * probs.amax(-1, keepdim=True)] = 0
    probs /= probs.sum(-1, keepdim=True)
    order = probs.argsort(-1, descending=True)
    probs = probs.gather(-1, order)
    probs[..., top_k:] = 0
    probs /= probs.sum(-1, keepdim=True)
    before = probs.cumsum(-1) - probs
    probs[before >= top_p] = 0
    probs /= probs.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, order, probs)


def chi_square_p(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """p-value of observed counts (V,) under probabilities (V,).

    Cells expected below 5 are pooled; an impossible token gives 0.
    """
    if counts[probs == 0].sum() > 0:
        return 0.0
    expected = probs * counts.sum()
    big = expected >= 5
    seen, due = counts[big].double(), expected[big]
    if expected[~big].sum() >= 5:
        seen = torch.cat([seen, counts[~big].sum()[None].double()])
        due = torch.cat([due, expected[~big].sum()[None]])
    if len(seen) == 1:
        return 1.0
    chi_square = ((seen - due) ** 2 / due).sum()
    freedom = torch.tensor(len(seen) - 1, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, chi_square / 2))
