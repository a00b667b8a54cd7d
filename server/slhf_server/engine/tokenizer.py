"""A model's tokenizer and chat template by tokenizers and jinja2 alone, for servers that have no transformers.

It reads the files that transformers' fast tokenizers save, and has what `ChatTemplate` (slhf/chat_template.py) asks a
tokenizer for. Its ids are those of transformers; tests/server/engine/test_tokenizer.py compares them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MORE_TEMPLATES = "additional_chat_templates"
"""The folder where transformers keeps templates by name; one named `default` is the tokenizer's."""


class FastTokenizer:
    """A tokenizer from a directory with `tokenizer.json`. It is safe to use in threads."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError and ValueError where the files are missing or make no tokenizer."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ValueError("there is no tokenizer.json")
        try:
            self.backend_tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as exc:  # tokenizers raises nothing narrower
            raise ValueError(f"tokenizer.json: {exc}") from exc
        self._read_config(_json(directory / "tokenizer_config.json"), _json(directory / "special_tokens_map.json"))
        self.chat_template = _template(directory, self._config)
        default = self.chat_template.get("default") if isinstance(self.chat_template, dict) else self.chat_template
        try:
            self._compiled = _environment().from_string(default or "")
        except TemplateError as exc:
            raise ValueError(f"the chat template: {exc}") from exc

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        found: Mapping[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return found

    @property
    def unk_token_id(self) -> int | None:
        name = self._named.get("unk_token")
        return None if name is None else self.backend_tokenizer.token_to_id(name)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        return_dict: bool = False,
        **options: Any,
    ) -> str | list[int]:
        """As transformers' method, for one chat: its text, or its ids."""
        assert not return_dict
        shown = {"documents": None, "add_generation_prompt": add_generation_prompt, **self._named, **options}
        rendered = self._compiled.render(messages=messages, tools=tools, **shown)
        return list(self.backend_tokenizer.encode(rendered, add_special_tokens=False).ids) if tokenize else rendered

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, special tokens included."""
        return str(self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _read_config(self, config: Mapping[str, Any], older: Mapping[str, Any]) -> None:
        """Take the names of special tokens, and the added tokens that are in the configuration alone."""
        self._config = config
        said = {name: config.get(name) or older.get(name) for name in _NAMED}
        self._named = {name: _text(token) for name, token in said.items() if token}
        known = self.added_tokens_decoder
        for number, token in sorted((int(number), token) for number, token in _added(config).items()):
            if number in known:
                continue
            self.backend_tokenizer.add_tokens([AddedToken(**token)])
            if self.backend_tokenizer.token_to_id(token["content"]) != number:
                raise ValueError(f"tokenizer_config.json: the added token {number} has another id in tokenizer.json")


class _Generation(Extension):
    """The tag `generation`, by which templates mark what an assistant said, for training alone."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Where transformers renders templates: the same options, filters and functions."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson  # Jinja's own escapes HTML
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{path.name}: {exc}") from exc
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def _template(directory: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template, or several by name: from their own files, else from the configuration."""
    found = {path.stem: path.read_text("utf-8") for path in sorted((directory / _MORE_TEMPLATES).glob("*.jinja"))}
    if (file := directory / "chat_template.jinja").is_file():
        found["default"] = file.read_text(encoding="utf-8")
    if found:
        return found["default"] if found.keys() == {"default"} else found
    said = config.get("chat_template")
    return {one["name"]: one["template"] for one in said} if isinstance(said, list) else said


def _added(config: Mapping[str, Any]) -> Mapping[str, dict[str, Any]]:
    found: Mapping[str, dict[str, Any]] = config.get("added_tokens_decoder") or {}
    return found


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)
