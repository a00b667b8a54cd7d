"""Thresholds that were measured for a bundle hold where it is served."""

import asyncio

import pytest

from slhf import Bundle
from slhf.history import Message
from slhf.wire import RefineOptions
from slhf_server.models.base import SamplingParams
from slhf_server.models.fake import FakeEngine
from slhf_server.refinement.job import Job
from slhf_server.refinement.planner import Planner, RefineParams
from slhf_server.settings.endpoints import OWN_ENGINE
from slhf_server.settings.judging import JudgeSettings
from slhf_server.settings.server import ServedModel, Settings
from tests.server.refinement.fake_judge import FakeJudge


@pytest.mark.parametrize(("measured", "margin"), [({}, 0.7), ({"select": {"margin": 0.85}}, 0.85)])
def test_the_bundles_margin_comes_before_the_judges(measured: dict[str, dict[str, float]], margin: float) -> None:
    engine = FakeEngine()
    engine.manifest = Bundle.model_validate({"name": "fake", "stop_rules": measured})
    settings = Settings(
        models={"m": ServedModel(judge="house")}, judges={"house": JudgeSettings(engine="own", margin=0.7)}
    )
    options = RefineOptions(draft="a draft", select="judge")
    asked = Message(role="user", content="Why?")

    async def planned() -> list[Job]:
        planner = Planner(settings, {OWN_ENGINE: engine}, {}, judges={"house": FakeJudge(lambda old, new: 0.9)})
        return planner.plan(RefineParams("refine", "1", None, [asked], options, SamplingParams(), "none"))

    (job,) = asyncio.run(planned())
    assert job.judging is not None
    assert job.judging.margin == margin
