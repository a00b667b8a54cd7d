"""A fit's chats and its judge, from the sections of its configuration that other modules define."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slhf_training.chats import Chat
from slhf_training.data import DataSettings, load
from slhf_training.errors import SettingsError
from slhf_training.preference import Preference
from slhf_training.preference.registry import PreferenceSettings, preference_of
from slhf_training.settings import FitSettings


def chats_of(settings: FitSettings, config: Path) -> list[Chat]:
    """Raises SettingsError naming the key, DataError naming file and line."""
    return [example.chat for example in load(_section("data", DataSettings, settings.data, config))]


def judge_of(settings: FitSettings, config: Path) -> Preference:
    """Raises SettingsError naming the key."""
    return preference_of(_section("preference", PreferenceSettings, settings.preference, config))


def _section(name: str, kind: Any, given: dict[str, Any], config: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_python(given, context={"root": config.parent})
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}" for e in exc.errors())
        raise SettingsError(f"{config}: {problems}") from exc
