"""From a configuration's `preference` section to the source that it describes."""

from typing import Annotated

from pydantic import Field

from slhf_training.preference import Preference
from slhf_training.preference.attributes import AttributesSettings, attributes_of
from slhf_training.preference.callable import CallableSettings, callable_of
from slhf_training.preference.checked import CheckedSettings, checked_of
from slhf_training.preference.fluency import FluencySettings, fluency_of
from slhf_training.preference.instructions import InstructionsSettings, instructions_of
from slhf_training.preference.judge import JudgeSettings, judge_of
from slhf_training.preference.mixture import Mixture, MixtureSettings, Weighted
from slhf_training.preference.reference import ReferenceSettings, reference_of
from slhf_training.preference.reward import RewardSettings, reward_of

PreferenceSettings = Annotated[
    AttributesSettings
    | RewardSettings
    | FluencySettings
    | ReferenceSettings
    | InstructionsSettings
    | CheckedSettings
    | JudgeSettings
    | CallableSettings
    | MixtureSettings,
    Field(discriminator="kind"),
]
Weighted.model_rebuild(_types_namespace={"PreferenceSettings": PreferenceSettings})
MixtureSettings.model_rebuild()
CheckedSettings.model_rebuild(_types_namespace={"PreferenceSettings": PreferenceSettings})


def preference_of(settings: PreferenceSettings) -> Preference:
    """The source, ready to be asked. Raises SettingsError naming the key where something it needs is not there."""
    match settings:
        case AttributesSettings():
            return attributes_of(settings)
        case RewardSettings():
            return reward_of(settings)
        case FluencySettings():
            return fluency_of(settings)
        case ReferenceSettings():
            return reference_of(settings)
        case InstructionsSettings():
            return instructions_of(settings)
        case CheckedSettings():
            return checked_of(settings, preference_of)
        case JudgeSettings():
            return judge_of(settings)
        case CallableSettings():
            return callable_of(settings)
        case MixtureSettings():
            sources = [(source.weight, preference_of(source.preference)) for source in settings.sources]
            return Mixture(sources, vote=settings.vote)
