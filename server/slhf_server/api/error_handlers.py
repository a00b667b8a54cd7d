"""Makes an error object of every error. This is the outermost boundary: nothing internal leaves the server."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from slhf.wire import ErrorBody, ErrorResponse
from slhf_server.api.error_shapes import AnthropicErrorResponse, error_bytes
from slhf_server.api.route import route_path
from slhf_server.errors import BadRequest, BodyTooLarge, InternalError, RequestError
from slhf_server.refinement.job import Endpoint

Responses = dict[int | str, dict[str, Any]]
Names = Callable[[], Mapping[str, str]]
"""The client's names of the parameters that errors name, made when there is an error."""


def errors(*statuses: int, model: type[BaseModel] = ErrorResponse) -> Responses:
    """The statuses that are answered with the error object, for the OpenAPI document."""
    return {status: {"model": model} for status in statuses}


_STREAMED: Responses = {200: {"content": {"text/event-stream": {}}}}
_GENERATING = (400, 401, 404, 408, 413, 415, 429, 431, 500, 502, 503, 504)
RESPONSES = _STREAMED | errors(*_GENERATING)
"""The answers of the endpoints that generate, for the OpenAPI document."""
ANTHROPIC_RESPONSES = _STREAMED | errors(*_GENERATING, model=AnthropicErrorResponse)
"""Those of Anthropic's messages."""
_COUNTING = (400, 401, 404, 408, 413, 415, 429, 431, 500, 503)
TOKEN_RESPONSES = errors(*_COUNTING)
"""The answers of the endpoints that show tokens and ask no model."""
ANTHROPIC_TOKEN_RESPONSES = errors(*_COUNTING, model=AnthropicErrorResponse)
_ENDPOINTS: dict[str, Endpoint] = {
    "/v1/refine": "refine",
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_LONGEST_MESSAGE = 2_000  # characters; the list of a server's models fits
_logger = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Add the handlers to the application."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody_listens)
    _document(app)


def _document(app: FastAPI) -> None:
    """Take FastAPI's own 422 out of the OpenAPI document: this server answers a bad request with 400."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents


def answerable(exc: Exception, request_id: str) -> RequestError:
    """What an exception is answered with: a bug, which the log then has, with an error that says the id alone."""
    if isinstance(exc, RequestError):
        return exc
    _logger.error("request %s failed unexpectedly", request_id, exc_info=exc)
    return InternalError(f"internal error; request id {request_id}")


def body_of(exc: RequestError, names: Mapping[str, str] | None = None) -> ErrorBody:
    """The error object. `names` has the endpoint's own names of parameters, where errors name them otherwise."""
    ours, message = exc.param and _bounded(exc.param), _bounded(exc.message, _LONGEST_MESSAGE)
    param = ours and _as_the_client_calls_it(ours, names or {})
    if ours and param and message.startswith(f"{ours}: "):
        message = param + message.removeprefix(ours)
    return ErrorBody(message=message, type=exc.type, param=param, code=exc.code)


def _as_the_client_calls_it(param: str, names: Mapping[str, str]) -> str:
    """A parameter such as `messages.0.content`, with the client's name for its longest beginning that has one."""
    steps = param.split(".")
    beginnings = (".".join(steps[:end]) for end in range(len(steps), 0, -1))
    known = next((beginning for beginning in beginnings if beginning in names), None)
    return param if known is None else names[known] + param.removeprefix(known)


def _bounded(text: str, most: int = 200) -> str:
    """The text, cut short: what a client sent can be long, and a message about it must not be."""
    return text if len(text) <= most else f"{text[:most]}..."


def error_type(status: int) -> str:
    """OpenAI's type of an error that has no class of ours."""
    return "invalid_request_error" if status < 500 else "server_error"


def bad_request(errors: list[Any], body: Any) -> BadRequest:
    """Pydantic's errors about a body as one sentence that names the key of the first."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {first['ctx']['error']}")
    if first["type"] in ("model_attributes_type", "model_type", "missing") and tuple(first["loc"]) == ("body",):
        return BadRequest("the body must be a JSON object, sent with Content-Type: application/json")
    told = first.get("ctx", {})
    loc = _path(first, body) + [told["key"]] if "key" in told else _path(first, body)
    param = told.get("param") or ".".join(loc) or None
    unknown = first["type"] == "extra_forbidden"
    message = "unknown key" if unknown else first["msg"].removeprefix("Value error, ")
    return BadRequest(f"{_bounded(param)}: {message}" if loc and param else message, param=param)


def _path(error: Any, body: Any) -> list[str]:
    """Where in the body the error is, without pydantic's names for the alternatives of a union; or in the query."""
    if error["loc"][0] == "query":
        return [str(step) for step in error["loc"][1:]]
    path: list[str] = []
    for at, step in enumerate(error["loc"][1:], start=2):
        if isinstance(body, dict) and step in body or isinstance(body, list) and isinstance(step, int):
            body = body[step]
        elif error["type"] != "missing" or at < len(error["loc"]):
            continue
        path.append(str(step))
    return path


def error_response(request: Request, exc: RequestError) -> Response:
    """The error as JSON, for handlers and for middleware. Errors of the endpoints that generate are counted."""
    path = route_path(request.scope)  # not request.url, which is made of the Host header too
    if path in _ENDPOINTS:
        model = getattr(request.state, "model", "")  # set once the request is planned
        request.app.state.service.metrics.request_failed(model, _ENDPOINTS[path], exc.name)
    headers = dict(exc.headers) if exc.retry_after is None else {"Retry-After": str(exc.retry_after)}
    names: Names = getattr(request.state, "names", dict)  # set by the endpoint once the body is read
    return _response(request, exc.status, body_of(exc, names()), headers)


def _response(request: Request, status: int, body: ErrorBody, headers: dict[str, str]) -> Response:
    content = error_bytes(request.scope, status, body, request.state.request_id)
    return Response(content, status, headers, "application/json")


async def _request_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)
    return error_response(request, exc)


async def _validation_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    return error_response(request, bad_request(list(exc.errors()), exc.body))


async def _http_error(request: Request, exc: Exception) -> Response:
    """Answer Starlette's own errors: no such route, a wrong method, a body over the limit."""
    assert isinstance(exc, HTTPException)
    if exc.status_code == BodyTooLarge.status:
        return error_response(request, BodyTooLarge(exc.detail))
    message = _bounded(f"{exc.detail}: {request.method} {request.scope['path']}", _LONGEST_MESSAGE)
    body = ErrorBody(message=message, type=error_type(exc.status_code))
    headers = dict(exc.headers or {})
    if "GET" in (allowed := headers.get("Allow", "").split(", ")):
        headers["Allow"] = ", ".join(sorted({*allowed, "HEAD"}))  # the router does not know what middleware answers
    return _response(request, exc.status_code, body, headers)


async def _nobody_listens(request: Request, exc: Exception) -> Response:
    return Response(status_code=499)  # nginx's "client closed request", which no client reads


def bug(request: Request) -> Response:
    """The answer to an unexpected exception; the client learns only the request's id."""
    request_id = request.scope["state"]["request_id"]
    _logger.error("request %s failed unexpectedly", request_id)
    return error_response(request, InternalError(f"internal error; request id {request_id}"))
