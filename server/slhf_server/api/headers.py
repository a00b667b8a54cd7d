"""What the headers of a request say beside its key, and those that a non-streamed answer has."""

from starlette.datastructures import Headers

from slhf_server.refinement.state import RefinementResult

_TRACE_CONTEXT = ("traceparent", "tracestate")  # W3C Trace Context


def trace_headers(headers: Headers) -> dict[str, str]:
    """The headers that name the caller's span, as they came."""
    return {name: ",".join(headers.getlist(name)) for name in _TRACE_CONTEXT if name in headers}


def asks_for_no_store(headers: Headers) -> bool:
    """Whether `Cache-Control` says `no-store` (RFC 9111, 5.2.1.5)."""
    directives = ",".join(headers.getlist("cache-control")).split(",")
    return any(directive.strip().lower() == "no-store" for directive in directives)


def refinement_headers(result: RefinementResult) -> dict[str, str]:
    """The report's main facts as headers; times are milliseconds."""
    refinement = result.refinement
    return {
        "X-SLHF-Applied": str(refinement.applied).lower(),
        "X-SLHF-Rounds": str(refinement.rounds_run),
        "X-SLHF-Stop-Reason": refinement.stop_reason,
        "X-SLHF-Duration-Ms": f"{refinement.duration_ms:.1f}",
        "X-SLHF-Overhead-Ms": f"{result.overhead_ms:.1f}",
    }
