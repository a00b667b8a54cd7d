"""From a configuration's `preference` section to the source that it describes."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from slhf_training.config import Section
from slhf_training.preference import Preference
from slhf_training.preference.attributes import AttributesSettings, attributes_of
from slhf_training.preference.callable import CallableSettings, callable_of
from slhf_training.preference.checked import CheckedSettings, checked_of
from slhf_training.preference.fluency import FluencySettings, fluency_of
from slhf_training.preference.instructions import InstructionsSettings, instructions_of
from slhf_training.preference.judge import JudgeSettings, judge_of
from slhf_training.preference.length import WithoutLengthSettings, without_length_of
from slhf_training.preference.mixture import Mixture, MixtureSettings, Weighted
from slhf_training.preference.model import ModelSettings, model_of
from slhf_training.preference.panel import JudgeOfPanel, Panel, PanelSettings
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
    | ModelSettings
    | CallableSettings
    | WithoutLengthSettings
    | MixtureSettings
    | PanelSettings,
    Field(discriminator="kind"),
]
for nested in (Weighted, JudgeOfPanel, WithoutLengthSettings):
    nested.model_rebuild(_types_namespace={"PreferenceSettings": PreferenceSettings})
MixtureSettings.model_rebuild()
CheckedSettings.model_rebuild(_types_namespace={"PreferenceSettings": PreferenceSettings})
PanelSettings.model_rebuild()


_PLAIN: Mapping[type[Section], Callable[[Any], Preference]] = {
    AttributesSettings: attributes_of,
    RewardSettings: reward_of,
    FluencySettings: fluency_of,
    ReferenceSettings: reference_of,
    InstructionsSettings: instructions_of,
    JudgeSettings: judge_of,
    ModelSettings: model_of,
    CallableSettings: callable_of,
}
"""Sources that hold no other ones."""


def preference_of(settings: PreferenceSettings) -> Preference:
    """The source, ready to be asked. Raises SettingsError naming the key where something it needs is not there."""
    match settings:
        case CheckedSettings():
            return checked_of(settings, preference_of)
        case MixtureSettings():
            sources = [(source.weight, preference_of(source.preference)) for source in settings.sources]
            return Mixture(sources, vote=settings.vote)
        case PanelSettings():
            return Panel({name: (preference_of(one.preference), one.least) for name, one in settings.judges.items()})
        case WithoutLengthSettings():
            return without_length_of(settings, preference_of(settings.preference))
    return _PLAIN[type(settings)](settings)
