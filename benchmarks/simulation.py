"""What one replica gets through: a formula, and a simulation of refinements that arrive at random.

An engine with n refinements at work makes one token for each of them in `Costs.step_s(n)` seconds, plus what their
prompts cost to read, spread over their tokens: processor sharing at a rate that depends on n.

The simulation leaves out preemption (none is needed, because a refinement is let in when its longest prompt and answer
fit into the KV cache), answers that end early, and a replica that fails.
"""

import bisect
import heapq
import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """One replica's engine, as benchmarks/scaling.py measures it."""

    steps: tuple[tuple[int, float], ...]
    """(sequences, seconds of a decode step), rising; linear between them and beyond the last two."""
    prefill_s: float
    """Of one prompt token that the prefix cache does not hold."""
    kv_tokens: int
    """The KV cache's size."""

    def step_s(self, n: int) -> float:
        sizes = [size for size, _ in self.steps]
        right = min(max(bisect.bisect_left(sizes, n), 1), len(sizes) - 1)
        (a, low), (b, high) = self.steps[right - 1], self.steps[right]
        return low + (n - a) / (b - a) * (high - low)


@dataclass(frozen=True, slots=True)
class Work:
    """What one refinement asks of an engine, in tokens."""

    prompt: int
    answer: int
    """Mean; each round's length is exponential around it."""
    rounds: int
    """The Follower's; the Leader's comes on top."""
    turn: int = 32
    """Of a Follower's prompt that the prefix cache does not hold: the instruction, and the draft's last block."""

    @property
    def tokens(self) -> int:
        return self.answer * (self.rounds + 1)

    @property
    def read(self) -> int:
        """Prompt tokens without the cached ones."""
        return self.prompt + self.turn * self.rounds

    @property
    def held(self) -> int:
        """KV cache of the longest round."""
        return self.prompt + self.turn + 2 * self.answer if self.rounds else self.prompt + self.answer


def places(costs: Costs, work: Work, running: int) -> int:
    """How many refinements one replica really does at once: `limits.running`, or what its KV cache holds."""
    return min(running, costs.kv_tokens // work.held)


def token_s(costs: Costs, work: Work, n: int) -> float:
    """Seconds in which each of n refinements gets one token, their prompts' reading included."""
    return costs.step_s(n) + n * costs.prefill_s * work.read / work.tokens


def capacity(costs: Costs, work: Work, running: int) -> float:
    """Refinements per second of one replica: places / (tokens x seconds per token)."""
    n = places(costs, work, running)
    return n / (work.tokens * token_s(costs, work, n))


def simulate(
    costs: Costs, work: Work, limits: tuple[int, int], rate: float, requests: int, seed: int = 0, warm_up: float = 1 / 3
) -> tuple[list[float], float]:
    """Latencies in seconds, and the share that is refused, of Poisson arrivals at `rate` a second on an idle replica.

    `limits` are those of the server, running and waiting. The first `warm_up` of the requests are not counted. Raises
    ValueError for work that the replica has no room for.
    """
    room = places(costs, work, limits[0])
    if room < 1:
        raise ValueError(f"{work} does not fit into {costs.kv_tokens} tokens of KV cache")
    chance = random.Random(seed)
    speed = [0.0] + [1 / token_s(costs, work, n) for n in range(1, room + 1)]  # tokens/s of each of n
    running: list[tuple[float, int]] = []  # heap of (the clock at its end, request)
    waiting: deque[tuple[float, int]] = deque()  # (tokens, request)
    clock = now = 0.0  # the clock counts tokens made for each that runs; an event costs O(log n)
    begun, ended = [0.0] * requests, [0.0] * requests  # 0 stays where a request is refused

    def end_until(time: float) -> None:
        nonlocal clock, now
        while running and (end := now + (running[0][0] - clock) / speed[len(running)]) <= time:
            now = end
            clock, request = heapq.heappop(running)
            ended[request] = now
            if waiting:
                tokens, request = waiting.popleft()
                heapq.heappush(running, (clock + tokens, request))

    for request in range(requests):
        arrival = (begun[request - 1] if request else 0.0) + chance.expovariate(rate)
        tokens = sum(chance.expovariate(1 / work.answer) for _ in range(work.rounds + 1))
        end_until(arrival)
        clock += (arrival - now) * speed[len(running)]
        now = begun[request] = arrival
        if len(running) < room:
            heapq.heappush(running, (clock + tokens, request))
        elif len(waiting) < limits[1]:
            waiting.append((tokens, request))
    end_until(float("inf"))
    counted = range(int(requests * warm_up), requests)
    latencies = [ended[request] - begun[request] for request in counted if ended[request]]
    return latencies, 1 - len(latencies) / len(counted)
