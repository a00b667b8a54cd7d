"""OpenAI's legacy completion request, read as a chat of one user turn, because chat models play the roles."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt, StrictStr, Tag, model_validator

from slhf.history import STRING_OR_LIST
from slhf_server.api.openai.chat_request import GenerationRequest, hide_earlier_rounds
from slhf_server.api.openai.parameters import COMPLETIONS
from slhf_server.api.parameter import document, filter_parameters
from slhf_server.api.planning import IN_REFINE

_OPENAIS_DEFAULT = 16  # tokens


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`."""

    model_config = ConfigDict(json_schema_extra=document(COMPLETIONS))

    prompt: Annotated[
        Annotated[StrictStr, Tag("string")]
        | Annotated[list[StrictStr], Field(min_length=1, max_length=1), Tag("list")],
        STRING_OR_LIST,
    ]
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    """How many of the likeliest tokens are told beside the chosen one."""

    @model_validator(mode="before")
    @classmethod
    def _decide_every_parameter(cls, body: Any) -> Any:
        return filter_parameters(body, COMPLETIONS)

    @model_validator(mode="after")
    def _earlier_rounds_cannot_be_shown(self) -> "CompletionRequest":
        hide_earlier_rounds(self.refine, "completion")
        return self

    def names(self) -> dict[str, str]:
        return {**IN_REFINE, "messages": "prompt", "top_logprobs": "logprobs"}

    @property
    def text(self) -> str:
        """The prompt, however it was sent."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def own_sampling(self) -> dict[str, int | None]:
        return {"max_tokens": self.max_tokens or _OPENAIS_DEFAULT, "logprobs": self.logprobs}
