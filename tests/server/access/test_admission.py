"""The queue: its order, its bounds, and that nobody who leaves it takes a place along."""

import asyncio

import pytest

from slhf_server.access.admission import Admission
from slhf_server.deadline import Deadline
from slhf_server.errors import QueueFull
from tests.conftest import until
from tests.server.conftest import Play


class Guest:
    """Asks for a place, and holds it until told to leave."""

    def __init__(
        self, admission: Admission, name: str, deadline: Deadline | None = None, model: str = "m", priority: int = 0
    ) -> None:
        self.leave = asyncio.Event()
        self.name = name
        self._admission = admission
        self._model = model
        self._deadline = deadline or Deadline.after(3600)
        self._priority = priority

    async def stay(self, admitted: list[str]) -> None:
        async with self._admission.place(self._model, self._deadline, self._priority):
            admitted.append(self.name)
            await self.leave.wait()


def test_places_go_to_who_waited_longest(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=2, waiting=9)
        guests = [Guest(admission, name) for name in "abcde"]
        admitted: list[str] = []
        async with asyncio.TaskGroup() as group:
            for guest in guests:
                group.create_task(guest.stay(admitted))
            await until(lambda: admission.waiting.total() == 3)
            assert (admitted, admission.running.total()) == (["a", "b"], 2)
            for leaving, following in zip("bac", "cde", strict=True):
                guests["abcde".index(leaving)].leave.set()
                await until(lambda: len(admitted) > "abcde".index(following))  # noqa: B023  awaited in this turn
                assert (admitted[-1], admission.running.total()) == (following, 2)
            for guest in guests:
                guest.leave.set()
        assert admitted == list("abcde")
        assert (admission.running.total(), admission.waiting.total()) == (0, 0)

    play(scenario())


def test_of_those_who_wait_the_lowest_priority_is_next_and_equals_go_by_their_arrival(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=1, waiting=9)
        admitted: list[str] = []
        first = Guest(admission, "first", priority=100)
        wishes = [("a", 1), ("b", 0), ("c", -2), ("d", 0), ("e", 1)]
        guests = [Guest(admission, name, priority=priority) for name, priority in wishes]
        async with asyncio.TaskGroup() as group:
            group.create_task(first.stay(admitted))
            await until(lambda: admitted == ["first"])
            for number, guest in enumerate(guests, start=1):
                guest.leave.set()
                group.create_task(guest.stay(admitted))
                await until(lambda: admission.waiting.total() == number)  # noqa: B023  awaited in this turn
            first.leave.set()
        assert admitted == ["first", "c", "b", "d", "a", "e"]
        assert (admission.running.total(), admission.waiting.total()) == (0, 0)

    play(scenario())


def test_who_leaves_the_queue_does_not_disturb_its_order(play: Play) -> None:
    """Whether the place is free at once, or comes when the one who leaves has been told but has not run since."""

    async def scenario() -> None:
        admission = Admission(running=1, waiting=9)
        admitted: list[str] = []
        guests = [Guest(admission, str(priority), priority=priority) for priority in (3, 0, 1, 2)]
        async with admission.place("m", Deadline.after(3600)):
            tasks = [asyncio.create_task(guest.stay(admitted)) for guest in guests]
            await until(lambda: admission.waiting.total() == 4)
            tasks[2].cancel()
            await until(lambda: admission.waiting.total() == 3)
            tasks[1].cancel()
        for guest in guests:
            guest.leave.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert admitted == ["2", "3"]
        assert (admission.running.total(), admission.waiting.total()) == (0, 0)

    play(scenario())


@pytest.mark.parametrize("waiting", [0, 2])
def test_one_more_than_may_wait_is_refused_at_once(play: Play, waiting: int) -> None:
    async def scenario() -> None:
        admission = Admission(running=1, waiting=waiting)
        guests = [Guest(admission, name) for name in "abc"[: waiting + 1]]
        admitted: list[str] = []
        async with asyncio.TaskGroup() as group:
            for guest in guests:
                group.create_task(guest.stay(admitted))
            await until(lambda: admission.waiting.total() == waiting and bool(admitted))
            with pytest.raises(QueueFull, match=f"{waiting} requests are waiting already"):
                await Guest(admission, "late").stay(admitted)
            assert (admission.running.total(), admission.waiting.total()) == (1, waiting)
            for guest in guests:
                guest.leave.set()
        assert admitted == [guest.name for guest in guests]

    play(scenario())


def test_nobody_waits_while_there_is_a_place(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=2, waiting=0)
        async with admission.place("m", Deadline.after(3600)), admission.place("m", Deadline.after(3600)):
            assert (admission.running.total(), admission.waiting.total()) == (2, 0)

    play(scenario())


def test_who_is_cancelled_in_the_queue_leaves_it_and_takes_no_place(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=1, waiting=2)
        admitted: list[str] = []
        first, second, third = (Guest(admission, name) for name in "abc")
        staying = asyncio.create_task(first.stay(admitted))
        leaving = asyncio.create_task(second.stay(admitted))
        await until(lambda: admission.waiting.total() == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert admission.waiting.total() == 0
        waiting = asyncio.create_task(third.stay(admitted))
        await until(lambda: admission.waiting.total() == 1)
        for guest in (first, third):
            guest.leave.set()
        await asyncio.gather(staying, waiting)
        assert admitted == ["a", "c"]

    play(scenario())


def test_who_is_cancelled_just_when_a_place_is_given_passes_it_on(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=1, waiting=2)
        admitted: list[str] = []
        guests = [Guest(admission, name) for name in "ab"]
        guests[1].leave.set()
        async with admission.place("m", Deadline.after(3600)):
            tasks = [asyncio.create_task(guest.stay(admitted)) for guest in guests]
            await until(lambda: admission.waiting.total() == 2)
        tasks[0].cancel()  # the place is on its way to it, but it has not run since
        await asyncio.gather(*tasks, return_exceptions=True)
        assert admitted == ["b"]
        assert (admission.running.total(), admission.waiting.total()) == (0, 0)

    play(scenario())


def test_an_error_inside_gives_the_place_back(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=1, waiting=0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                async with admission.place("m", Deadline.after(3600)):
                    raise ZeroDivisionError
        assert admission.running.total() == 0

    play(scenario())


def test_when_the_deadline_passes_in_the_queue_it_goes_on_without_a_place(play: Play) -> None:
    """And leaves none behind: afterwards there are as many places as before."""

    async def scenario() -> None:
        admission = Admission(running=1, waiting=1)
        admitted: list[str] = []
        first, next_one = Guest(admission, "first"), Guest(admission, "next")
        deadline = Deadline.after(3600)
        late = Guest(admission, "late", deadline)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.stay(admitted))
            group.create_task(late.stay(admitted))
            await until(lambda: admission.waiting.total() == 1)
            deadline.bring_forward(asyncio.get_running_loop().time())
            await until(lambda: admitted == ["first", "late"])
            assert (admission.running.total(), admission.waiting.total()) == (2, 0)
            late.leave.set()
            await until(lambda: admission.running.total() == 1)
            group.create_task(next_one.stay(admitted))
            await until(lambda: admission.waiting.total() == 1)
            assert admitted == ["first", "late"]
            first.leave.set()
            next_one.leave.set()
        assert admitted == ["first", "late", "next"]

    play(scenario())


def test_counts_are_kept_by_model(play: Play) -> None:
    async def scenario() -> None:
        admission = Admission(running=1, waiting=1)
        first, second = Guest(admission, "first", model="a"), Guest(admission, "second", model="b")
        admitted: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(first.stay(admitted))
            group.create_task(second.stay(admitted))
            await until(lambda: admission.waiting.total() == 1)
            assert (admission.running["a"], admission.waiting["a"]) == (1, 0)
            assert (admission.running["b"], admission.waiting["b"]) == (0, 1)
            first.leave.set()
            await until(lambda: len(admitted) == 2)
            assert (admission.running["a"], admission.running["b"]) == (0, 1)
            second.leave.set()

    play(scenario())
