"""A cluster of replicas as a discrete-event simulation: refinements arrive, a router places them, engines batch them.

An engine with n refinements at work makes one token for each of them in `Costs.step_s(n)` seconds, plus what their
prompts cost to read, spread over their tokens: processor sharing at a rate that depends on n. A replica's clock counts
tokens made for each of its refinements, so a refinement ends when the clock reaches the tokens it needs, and an event
costs O(log n) however many are at work.

What it leaves out: preemption (a refinement is let in when its longest prompt and answer fit into the KV cache, so that
none is needed), answers that end early, and replicas that fail.
"""

import bisect
import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Policy = Literal["random", "two choices", "least"]


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


@dataclass(frozen=True, slots=True)
class Cluster:
    replicas: int
    running: int
    """`limits.running` of each."""
    waiting: int
    """`limits.waiting` of each; beyond it a request is refused."""
    policy: Policy = "least"
    router_s: float = 0.0
    """The router's time for one request. It does one at a time."""


def places(costs: Costs, work: Work, running: int) -> int:
    """Refinements that one replica really does at once: its limit, or what its KV cache holds."""
    return min(running, costs.kv_tokens // work.held)


def token_s(costs: Costs, work: Work, n: int) -> float:
    """Seconds in which each of n refinements gets one token, their prompts' reading included."""
    return costs.step_s(n) + n * costs.prefill_s * work.read / work.tokens


def capacity(costs: Costs, work: Work, cluster: Cluster) -> float:
    """Refinements per second by formula: replicas x places / (tokens x seconds per token), at most the router's."""
    n = places(costs, work, cluster.running)
    engines = cluster.replicas * n / (work.tokens * token_s(costs, work, n))
    return min(engines, 1 / cluster.router_s) if cluster.router_s else engines


@dataclass(frozen=True, slots=True)
class Outcome:
    finished: int
    refused: int
    per_s: float
    """Ends a second from the end of the warm-up to the last arrival, whenever they arrived."""
    p50_s: float
    p95_s: float
    alone_s: float
    """What a mean refinement takes with a replica of its own."""
    kv_share: float
    """Of the KV cache that refinements at work hold, at a mean arrival."""
    router_share: float
    """Of the time that the router is busy."""


@dataclass(slots=True)
class _Replica:
    clock: float = 0.0
    """Tokens made for each refinement at work."""
    seen: float = 0.0
    """The time of `clock`."""
    version: int = 0
    """A planned end of another version is out of date."""
    ends: list[tuple[float, float]] = field(default_factory=list)
    """Heap of those at work: (clock at its end, arrival)."""
    queue: deque[tuple[float, float]] = field(default_factory=deque)
    """Waiting: (tokens, arrival)."""

    @property
    def load(self) -> int:
        return len(self.ends) + len(self.queue)


def simulate(
    costs: Costs, work: Work, cluster: Cluster, rate: float, requests: int, seed: int = 0, warm_up: float = 1 / 3
) -> Outcome:
    """`requests` Poisson arrivals at `rate` a second on idle engines; the first `warm_up` of them are not counted.

    Raises ValueError for work that no replica has room for.
    """
    if places(costs, work, cluster.running) < 1:
        raise ValueError(f"{work} does not fit into {costs.kv_tokens} tokens of KV cache")
    chance = random.Random(seed)
    engines = _Engines(costs, work, cluster)
    router = _Router(engines.replicas, cluster.policy, chance)
    now = free = started = 0.0
    refused = held = 0
    for count in range(requests):
        now += chance.expovariate(rate)
        free = max(now, free) + cluster.router_s
        counted = count >= int(requests * warm_up)
        started = started if counted else now
        for number in engines.end_until(free):
            router.moved(number)
        number = router.choose()
        tokens = sum(chance.expovariate(1 / work.answer) for _ in range(work.rounds + 1))
        if engines.take(number, free, tokens, now):
            router.moved(number)
            held += counted * len(engines.replicas[number].ends)
        else:
            refused += counted
    for _ in engines.end_until(math.inf):
        pass
    counted_ends = [end - arrival for end, arrival in engines.ended if arrival > started]
    cuts = statistics.quantiles(counted_ends, n=20, method="inclusive")
    arrived = len(counted_ends) + refused
    return Outcome(
        finished=len(counted_ends),
        refused=refused,
        per_s=sum(started < end <= now for end, _ in engines.ended) / (now - started),
        p50_s=cuts[9],
        p95_s=cuts[18],
        alone_s=work.tokens * token_s(costs, work, 1),
        kv_share=held / arrived * work.held / costs.kv_tokens,
        router_share=min(cluster.router_s * arrived / (now - started), 1.0),
    )


class _Engines:
    """All replicas, and when what they do ends."""

    def __init__(self, costs: Costs, work: Work, cluster: Cluster) -> None:
        self.replicas = [_Replica() for _ in range(cluster.replicas)]
        self.ended: list[tuple[float, float]] = []
        """(end, arrival) of each refinement."""
        self._places = places(costs, work, cluster.running)
        self._room = self._places + cluster.waiting
        self._speed = [0.0] + [1 / token_s(costs, work, n) for n in range(1, self._places + 1)]  # tokens/s of each
        self._planned: list[tuple[float, int, int]] = []  # (time, replica, its version)

    def take(self, number: int, time: float, tokens: float, arrival: float) -> bool:
        """False where the replica's queue is full."""
        replica = self.replicas[number]
        if replica.load >= self._room:
            return False
        self._advance(replica, time)
        replica.queue.append((tokens, arrival))
        self._plan(number)
        return True

    def end_until(self, time: float) -> Iterator[int]:
        """The replicas at which something ended, one by one."""
        while self._planned and self._planned[0][0] <= time:
            at, number, version = heapq.heappop(self._planned)
            replica = self.replicas[number]
            if version == replica.version:
                self._advance(replica, at)
                self.ended.append((at, heapq.heappop(replica.ends)[1]))
                self._plan(number)
                yield number

    def _advance(self, replica: _Replica, time: float) -> None:
        replica.clock += (time - replica.seen) * self._speed[len(replica.ends)]
        replica.seen = time

    def _plan(self, number: int) -> None:
        """Let in what waits, and note when the next one ends if nothing changes before."""
        replica = self.replicas[number]
        while replica.queue and len(replica.ends) < self._places:
            tokens, arrival = replica.queue.popleft()
            heapq.heappush(replica.ends, (replica.clock + tokens, arrival))
        replica.version += 1
        if replica.ends:
            left = replica.ends[0][0] - replica.clock
            heapq.heappush(
                self._planned, (replica.seen + left / self._speed[len(replica.ends)], number, replica.version)
            )


class _Router:
    """Knows every replica's load at once, as a single router does; several routers know less."""

    def __init__(self, replicas: Sequence[_Replica], policy: Policy, chance: random.Random) -> None:
        self._replicas, self._policy, self._chance = replicas, policy, chance
        self._by_load: list[tuple[int, float, int]] = [(0, chance.random(), i) for i in range(len(replicas))]
        heapq.heapify(self._by_load)

    def moved(self, number: int) -> None:
        """Its load changed. Entries of other loads stay in the heap until they are met."""
        if self._policy == "least":
            heapq.heappush(self._by_load, (self._replicas[number].load, self._chance.random(), number))

    def choose(self) -> int:
        count = len(self._replicas)
        match self._policy:
            case "random":
                return self._chance.randrange(count)
            case "two choices":
                pair = self._chance.randrange(count), self._chance.randrange(count)
                return min(pair, key=lambda number: self._replicas[number].load)
            case "least":
                while self._by_load[0][0] != self._replicas[self._by_load[0][2]].load:
                    heapq.heappop(self._by_load)
                return self._by_load[0][2]
