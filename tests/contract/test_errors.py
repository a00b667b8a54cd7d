"""One error, one status: in JSON, in a stream, and as the client's exception. Walks over all errors of the server."""

from collections.abc import Iterator

import httpx2
import pytest

from slhf import APIError, Client
from slhf.errors import ERRORS
from slhf.wire import ErrorBody, ErrorEvent, ErrorResponse
from slhf_server.errors import InvalidStructure, RequestError


def below(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from below(child)


ANSWERED = sorted(
    {kind for kind in below(RequestError) if kind is not InvalidStructure}, key=lambda kind: kind.__name__
)


def raised_by(reply: httpx2.Response) -> APIError:
    with Client(transport=httpx2.MockTransport(lambda request: reply), max_retries=0) as client:
        with pytest.raises(APIError) as raised:
            list(client.stream("why?"))
    return raised.value


@pytest.mark.parametrize("kind", ANSWERED)
def test_each_error_of_the_server_is_the_same_in_json_and_in_a_stream(kind: type[RequestError]) -> None:
    body = ErrorBody(message="no", type=kind.type, code=kind.code)
    event = f"event: error\ndata: {ErrorEvent(error=body).model_dump_json()}\n\n".encode()
    plain = raised_by(httpx2.Response(kind.status, content=ErrorResponse(error=body).model_dump_json().encode()))
    streamed = raised_by(httpx2.Response(200, content=event))
    assert (type(plain), plain.status, plain.code) == (type(streamed), streamed.status, streamed.code)
    assert (plain.status, plain.code) == (kind.status, kind.code)


def test_the_client_knows_every_code_of_the_server_and_no_other() -> None:
    assert {code: (kind.status, kind.type) for code, kind in ERRORS.items()} == {
        kind.code: (kind.status, kind.type) for kind in ANSWERED if kind.code
    }
