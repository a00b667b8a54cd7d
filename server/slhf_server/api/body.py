"""A request's JSON, read as RFC 8259 has it: UTF-8, and nothing in it that UTF-8 cannot write."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonRequest(Request):
    async def json(self) -> Any:
        """Raises HTTPException 400 for half of a surrogate pair ("\\ud800"): no tokenizer and no answer takes it."""
        try:
            text = (await self.body()).decode("utf-8-sig")
            body = json.loads(text)
            if _SURROGATE.search(text):  # halves of whole pairs were joined by now
                json.dumps(body, ensure_ascii=False).encode()
        except UnicodeError as exc:
            raise HTTPException(400, "the body must be UTF-8, escapes of surrogates included") from exc
        return body


class JsonRoute(APIRoute):
    """The `route_class` of a router whose endpoints take a JSON body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return read
