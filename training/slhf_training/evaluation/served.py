"""Answers by vLLM, in process: the server's engine, planner and refinement loop, so that what is measured is served."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from slhf_training.errors import EngineError
from slhf_training.evaluation import GenerationSettings
from slhf_training.evaluation.answers import NONE, Answer, Finish
from slhf_training.evaluation.generation import Keep, Task
from slhf_training.models.bundles import needing_the_server

if TYPE_CHECKING:
    from slhf_server.models.base import Engine, SamplingParams
    from slhf_server.refinement.planner import Planner, RefineParams
    from slhf_server.settings.server import Settings

OpenEngine = Callable[["Settings"], Awaitable["Engine"]]

_UNLIMITED: dict[str, Any] = {"rounds": 1 << 20, "timeout_ms": 1 << 40, "max_total_tokens": 1 << 40}
_PLAIN: dict[str, Any] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""Sampling by temperature alone, which overrides what a bundle or a model's generation_config.json says."""


class Served:
    """Implements `Generator`. A context manager: the engine runs inside."""

    def __init__(self, name: str, spec: str, how: GenerationSettings, opened: OpenEngine | None = None) -> None:
        """`opened`: instead of vLLM. Raises SettingsError where slhf-server is not installed."""
        self._name, self._how = name, how
        with needing_the_server(f"models.{name}"):
            from slhf_server.loading.start import open_vllm
            from slhf_server.settings.server import Settings

            self._open = opened or open_vllm
            said: dict[str, Any] = {"run_examples": "on" if how.run_examples else "off"}
            if how.cpu_quantization is not None:
                said["cpu_quantization"] = how.cpu_quantization
            self._settings = Settings(
                bundle=spec, engine=how.engine, limits=_UNLIMITED, speculation="off", log_format="text", **said
            )

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        try:
            with needing_the_server(f"models.{self._name}"):
                self._engine = self._runner.run(self._opened())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.shutdown()
        del self._engine  # vLLM's finaliser fails when it runs at the interpreter's end
        self._runner.close()

    def write(self, tasks: Sequence[Task], keep: Keep) -> None:
        """Raises EngineError when the engine dies; what was finished is kept."""
        self._runner.run(self._all(tasks, keep))

    async def _opened(self) -> "Engine":
        return await self._open(self._settings)

    async def _all(self, tasks: Sequence[Task], keep: Keep) -> None:
        from slhf_server.refinement.planner import Planner

        planner = Planner(self._settings, {"engine": self._engine}, {})
        numbered = iter(enumerate(tasks))
        await asyncio.gather(*(self._work(planner, numbered, keep) for _ in range(self._how.batch_size)))

    async def _work(self, planner: "Planner", numbered: Iterator[tuple[int, Task]], keep: Keep) -> None:
        for number, task in numbered:  # shared by all workers: each takes what comes next
            written, last = 0, Answer(task.draft)
            async with aclosing(self._answers(planner, str(number), task)) as answers:
                async for answer in answers:
                    keep(number, written, answer)
                    written, last = written + 1, answer
            for place in range(written, task.answers):
                keep(number, place, NONE if last.text is None else Answer(last.text, "kept"))

    async def _answers(self, planner: "Planner", number: str, task: Task) -> AsyncGenerator[Answer, None]:
        """What was finished; fewer than the task asks for where the server would end early, too."""
        from slhf.wire import RoundCompleted
        from slhf_server.errors import BadRequest, RequestError
        from slhf_server.refinement.loop import refine

        try:
            (job,) = planner.plan(self._ask(number, task))
            job = replace(job, rounds_before=max(0, task.round - 1))  # a draft counts as the one round before
            async with aclosing(refine(job)) as steps:
                async for step in steps:
                    if isinstance(step, RoundCompleted) and step.role != "client":
                        finish: Finish = "length" if step.finish_reason == "length" else "stop"
                        yield Answer(step.text, finish, step.usage.completion_tokens)
            self._engine.check()
        except RequestError as exc:
            if not (isinstance(exc, BadRequest) and exc.param == "messages"):  # no room, or turns the model cannot take
                raise EngineError(f"models.{self._name}: {exc.message}") from exc

    def _ask(self, number: str, task: Task) -> "RefineParams":
        from slhf.history import Message
        from slhf.wire import RefineOptions
        from slhf_server.refinement.planner import RefineParams

        rounds = task.answers if task.draft is not None else task.answers - 1
        return RefineParams(
            endpoint="refine",
            request_id=number,
            model=None,
            messages=[Message.model_validate(message) for message in task.chat],
            options=RefineOptions(rounds=rounds, draft=task.draft, select="last", stop_when=[]),
            sampling=self._sampling(task.seed),
            deltas="none",
        )

    def _sampling(self, seed: int) -> "SamplingParams":
        from slhf_server.models.base import SamplingParams

        how = self._how
        plain = {} if how.temperature is None else {"temperature": how.temperature, **_PLAIN}
        return SamplingParams(max_tokens=how.max_new_tokens, seed=seed, **plain)
