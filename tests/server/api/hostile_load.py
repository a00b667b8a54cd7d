"""Runs in a process of its own: hostile connections to 127.0.0.1:PORT, TOTAL in all and AT_ONCE at once, of KINDS.

Each is given up by its client after `PATIENCE_S` or `MOST_BYTES`, so the process ends by itself. It prints one line of
JSON: for each kind, how its connections ended.
"""

import asyncio
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, repeat

PATIENCE_S = 4.0
MOST_BYTES = 256 << 10
POST = b"POST /v1/refine HTTP/1.1\r\nHost: x\r\n"
MINE = POST + b"Authorization: Bearer right\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /v1/models HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX: " + b"y" * 500 + b"\r\n\r\n"

Pieces = Callable[[], Iterator[bytes]]
KINDS: dict[str, tuple[Pieces, float]] = {
    "endless trailers": (
        lambda: chain([MINE + CHUNKED + b"1\r\n{\r\n0\r\n"], (b"X-%d: y\r\n" % i for i in range(1 << 20))),
        0,
    ),
    "an endless trailer": (lambda: chain([POST + CHUNKED + b"0\r\nX: "], repeat(b"y" * 1000)), 0),
    "endless chunk extensions": (lambda: chain([MINE + CHUNKED + b"1;"], repeat(b"x" * 1000)), 0),
    "an endless head": (lambda: chain([POST], (b"X-%d: y\r\n" % i * 50 for i in range(1 << 20))), 0.001),
    "an endless field": (lambda: chain([POST + b"X: "], repeat(b"y" * 1000)), 0.001),
    "an endless line": (lambda: chain([b"GET /"], repeat(b"y" * 1000)), 0.001),
    "a head that stops before its limit": (lambda: iter([POST + b"X: " + b"y" * 40_000]), PATIENCE_S),
    "many small fields that stop": (lambda: iter([POST + b"a:\r\n" * 9_000]), PATIENCE_S),
    "a byte at a time": (lambda: chain([POST], repeat(b"x")), 0.1),
    "a body by bytes": (lambda: chain([MINE + b"Content-Length: 1000000\r\n\r\n"], repeat(b"x")), 0.1),
    "a folded field": (lambda: chain([POST + b"X: y\r\n"], repeat(b" folded\r\n")), 0),
    "half open": (lambda: iter([]), PATIENCE_S),
    "half a head": (lambda: iter([POST]), PATIENCE_S),
    "upgrades": (lambda: repeat(UPGRADE * 10), 0),
    "a pipeline": (lambda: repeat(b"GET /health HTTP/1.1\r\n\r\n" * 500), 0),
    "a pipeline behind a body that stops": (
        lambda: chain([MINE + b"Content-Length: 9\r\n\r\n"], repeat(b"GET / HTTP/1.1\r\n\r\n" * 500)),
        0,
    ),
    "a huge declared length": (
        lambda: chain([POST + b"Content-Length: 999999999999\r\n\r\n"], repeat(b"x" * 16_000)),
        0,
    ),
    "a large body without a key": (
        lambda: iter([POST + b"Content-Length: 500000\r\n\r\n" + b"x" * 250_000]),
        PATIENCE_S,
    ),
    "a large head, refused and kept": (
        lambda: iter([b"GET /v1/models HTTP/1.1\r\nX: " + b"y" * 30_000 + b"\r\n\r\n"]),
        PATIENCE_S,
    ),
    "blank lines": (lambda: repeat(b"\r\n" * 500), 0),
    "noise": (lambda: repeat(b"\x16\x03\x01\x02\x00" * 100), 0),
}


async def attack(port: int, kind: str) -> str:
    """How it ended: "answered" with an error or "closed" by the server, or "given up" by the client."""
    make, pause = KINDS[kind]
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.ensure_future(_drained(reader))
            try:
                sent = 0
                for piece in make():
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
                    if sent > MOST_BYTES or reading.done():
                        break
                    await asyncio.sleep(pause)
                return await reading
            finally:
                reading.cancel()
                writer.transport.abort()
    except TimeoutError:
        return "given up"
    except OSError:
        return "closed"


async def _drained(reader: asyncio.StreamReader) -> str:
    first = await reader.read(9)
    while await reader.read(1 << 16):
        pass
    return "answered" if first else "closed"


async def main(port: int, total: int, at_once: int, kinds: list[str]) -> None:
    places = asyncio.Semaphore(at_once)
    ends: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def one(kind: str) -> None:
        ends[kind][await attack(port, kind)] += 1
        places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(total):
            await places.acquire()
            group.create_task(one(kinds[number % len(kinds)]))
    sys.stdout.write(json.dumps(ends) + "\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(KINDS)))
