"""Makes the checks that rows name by `check`, and runs many of them at once."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field

from slhf_training.checks import Check
from slhf_training.checks.answers import (
    Accepted,
    AcceptedSettings,
    Exact,
    ExactSettings,
    Number,
    NumberSettings,
    Schema,
    SchemaSettings,
)
from slhf_training.checks.instructions import Instructions, InstructionsCheckSettings
from slhf_training.checks.tests import UnitTests, UnitTestsSettings

CheckSettings = Annotated[
    NumberSettings | AcceptedSettings | UnitTestsSettings | InstructionsCheckSettings | ExactSettings | SchemaSettings,
    Field(discriminator="kind"),
]


def check_of(settings: CheckSettings) -> Check:
    """Make the check. Raises SettingsError for a JSON schema that is invalid or that no package here can read."""
    match settings:
        case NumberSettings():
            return Number(settings)
        case AcceptedSettings():
            return Accepted(settings)
        case UnitTestsSettings():
            return UnitTests(settings)
        case InstructionsCheckSettings():
            return Instructions(settings)
        case ExactSettings():
            return Exact(settings)
        case SchemaSettings():
            return Schema(settings)


def passed_all(checks: Sequence[Check], answers: Sequence[str]) -> list[bool]:
    """Return whether each answer passes its check, (B,). As many unit tests run at once as this process has cores.

    Raises SandboxError where unit tests cannot run on this host.
    """
    pairs = list(zip(checks, answers, strict=True))
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:  # each thread waits for a process
        running = {
            place: pool.submit(check.passed, answer)
            for place, (check, answer) in enumerate(pairs)
            if isinstance(check, UnitTests)
        }
        return [
            running[place].result() if place in running else check.passed(answer)
            for place, (check, answer) in enumerate(pairs)
        ]
