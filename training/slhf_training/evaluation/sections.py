"""The report's sections: what each measures, as plain data."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from slhf_training.evaluation.answers import Slot
from slhf_training.evaluation.chains import Chain, label, parsed, refined
from slhf_training.evaluation.cycles import tournament
from slhf_training.evaluation.ifeval import Checker, Instructed, Verdict, followed, ifeval_report
from slhf_training.evaluation.settings import (
    CyclesSettings,
    IFEvalSettings,
    RefinementSettings,
    RoundRobinSettings,
    RoundsSettings,
)
from slhf_training.evaluation.statistics import Numbers
from slhf_training.evaluation.study import Row, Study, row_of


def round_robin(study: Study, settings: RoundRobinSettings) -> Row:
    """Every player against every other; a duel says how often `row` beats `column`."""
    chains = list(dict.fromkeys(map(parsed, settings.players)))
    duels = [{"row": label(one), "column": label(two), **study.duel(one, two)} for one, two in combinations(chains, 2)]
    return {"players": {label(chain): study.described(chain) for chain in chains}, "duels": duels}


def refinement(study: Study, settings: RefinementSettings) -> Row:
    """Every follower's refinement of every leader's drafts, against those very drafts."""
    return {
        "duels": [
            {"leader": leader, "follower": follower, **_refined(study, (leader,), (leader, follower))}
            for leader in settings.leaders
            for follower in settings.followers
        ]
    }


def rounds(study: Study, settings: RoundsSettings, samples: Mapping[str, int]) -> Row:
    """Round by round against the draft. `samples`: how many independent answers of a Leader there are to set beside."""
    curves = []
    for leader in settings.leaders:
        for follower in settings.followers:
            chains = [refined(leader, follower, number) for number in range(settings.rounds + 1)]
            curve: Row = {"leader": leader, "follower": follower, "rounds": _curve(study, chains)}
            if leader in samples:
                curve["best_of_samples"] = _best_of_samples(study, (leader,), min(samples[leader], len(chains)))
            curves.append(curve)
    return {"curves": curves}


def _curve(study: Study, chains: Sequence[Chain]) -> list[Row]:
    draft, *later = chains
    drafts = study.slots(draft)
    p = [study.judged(list(zip(study.slots(chain), drafts, strict=True))) for chain in later]
    found = [{"round": 0, **study.described(draft), "best_of": row_of(study.bootstrap.mean(_best(p[:0], len(drafts))))}]
    for number, (before, chain) in enumerate(zip(chains, later, strict=False), start=1):
        found.append(
            {
                "round": number,
                **study.described(chain),
                "against_draft": study.duel(chain, draft),
                "best_of": row_of(study.bootstrap.mean(_best(p[:number], len(drafts)))),
                "changes": study.changes(before, chain),
            }
        )
    return found


def _best_of_samples(study: Study, chain: Chain, samples: int) -> list[Row | None]:
    first = study.slots(chain)
    p = [study.judged(list(zip(study.slots(chain, number), first, strict=True))) for number in range(1, samples)]
    return [row_of(study.bootstrap.mean(_best(p[:number], len(first)))) for number in range(samples)]


def _best(p: Sequence[Numbers], n: int) -> Numbers:
    """(N,): the best p, against the first answer, of the first answer itself (a tie) and those that follow it."""
    return np.asarray(np.nanmax(np.stack([np.full(n, 0.5), *p]), axis=0), dtype=np.float64)


def cycles(study: Study, settings: CyclesSettings) -> Row:
    """Among several answers of one Leader to one prompt: preference cycles and Condorcet winners."""
    return {name: _cycles_of(study, name, settings.samples) for name in settings.models}


def _cycles_of(study: Study, name: str, samples: int) -> Row:
    groups = [
        _different(study, [Slot((name,), prompt, number) for number in range(samples)]) for prompt in study.prompts
    ]
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    verdicts = iter(study.judged(pairs))
    matrices = [_matrix([next(verdicts) for _ in combinations(group, 2)], len(group)) for group in groups]
    whole = [tournament(p) for p in matrices if len(p) and not np.isnan(p).any()]
    figures = {
        "with_cycle": [one.cycle for one in whole],
        "without_condorcet_winner": [not one.condorcet_winner for one in whole],
        "without_unbeaten": [not one.unbeaten for one in whole],
        "different_answers": [one.answers for one in whole],
    }
    shares = {what: study.bootstrap.mean(np.array(values, dtype=np.float64)) for what, values in figures.items()}
    return {
        "samples": samples,
        "without_verdict": len(matrices) - len(whole),
        **{what: row_of(estimate) for what, estimate in shares.items()},
    }


def _different(study: Study, slots: Sequence[Slot]) -> list[Slot]:
    """The same text twice counts once; a slot without text does not count."""
    first = {text: slot for slot, text in reversed(list(zip(slots, study.answers.texts(slots), strict=True)))}
    return [slot for text, slot in reversed(first.items()) if text is not None]


def _matrix(upper: Sequence[float], n: int) -> Numbers:
    """(N, N) preferences from those above the diagonal, row by row."""
    p = np.full((n, n), 0.5)
    p[np.triu_indices(n, 1)] = upper
    below = np.tril_indices(n, -1)
    p[below] = 1 - p.T[below]
    return p


def ifeval(study: Study, settings: IFEvalSettings, prompts: Sequence[Instructed], check: Checker) -> Row:
    """Accuracy of each player; of one that refines, also how much it differs from its draft's."""
    chains = list(dict.fromkeys(map(parsed, settings.players)))
    verdicts = {chain: _verdicts(study, chain, prompts, check) for chain in {*chains, *(c[:1] for c in chains)}}
    return {
        "checker": settings.checker,
        "prompts": len(prompts),
        "kinds": sorted({kind for one in prompts for kind in one.row.kinds}),
        "players": {
            label(chain): {
                **ifeval_report(verdicts[chain], study.bootstrap),
                **(_gain(study, verdicts[chain[:1]], verdicts[chain]) if len(chain) > 1 else {}),
            }
            for chain in chains
        },
    }


def _verdicts(study: Study, chain: Chain, prompts: Sequence[Instructed], check: Checker) -> list[Verdict]:
    """An answer that is not there follows nothing."""
    texts = study.answers.texts(Slot(chain, one.prompt.id) for one in prompts)
    return [check(one, text or "") for one, text in zip(prompts, texts, strict=True)]


def _gain(study: Study, before: Sequence[Verdict], after: Sequence[Verdict]) -> dict[str, Any]:
    """Accuracy by prompt, refined minus draft, on the same prompts."""
    return {
        f"gain_prompt_{how}": row_of(study.bootstrap.mean(followed(after, how) - followed(before, how)))
        for how in ("strict", "loose")
    }


def _refined(study: Study, before: Chain, after: Chain) -> Row:
    return {**study.duel(after, before), "changes": study.changes(before, after), "refined": study.described(after)}
