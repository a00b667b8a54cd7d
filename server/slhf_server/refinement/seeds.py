"""Derives the seed of each completion: a request's one seed becomes one for each choice and round.

A round that drew the Leader's noise again would be no sample of omega(.|x, y): it would depend on y beyond reading it.
"""

import hashlib


def seed_of(seed: int | None, choice: int, round_number: int) -> int | None:
    """The seed of one completion, at least 0 and below 2**63; None: the engine draws its own.

    The first 63 bits of the SHA-256 of "SEED:CHOICE:ROUND" in decimal digits. A request's -1 means none, as in vLLM.
    """
    if seed is None or seed == -1:
        return None
    digest = hashlib.sha256(f"{seed}:{choice}:{round_number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
