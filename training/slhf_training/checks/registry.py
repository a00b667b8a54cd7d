"""From a row's `check` to the check that it describes."""

from typing import Annotated

from pydantic import Field

from slhf_training.checks import Check
from slhf_training.checks.accepted import Accepted, AcceptedSettings
from slhf_training.checks.exact import Exact, ExactSettings
from slhf_training.checks.following import Instructions, InstructionsCheckSettings
from slhf_training.checks.number import Number, NumberSettings
from slhf_training.checks.schema import Schema, SchemaSettings
from slhf_training.checks.tests import UnitTests, UnitTestsSettings

CheckSettings = Annotated[
    NumberSettings | AcceptedSettings | UnitTestsSettings | InstructionsCheckSettings | ExactSettings | SchemaSettings,
    Field(discriminator="kind"),
]


def check_of(settings: CheckSettings) -> Check:
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
