"""The headers of a request that name the caller's span, and those that a non-streamed answer has."""

from starlette.datastructures import Headers

from slhf_server.refinement.state import RefinementResult

_TRACE_CONTEXT = ("traceparent", "tracestate")  # W3C Trace Context


def trace_headers(headers: Headers) -> dict[str, str]:
    """The headers that name the caller's span, as they came."""
    return {name: ",".join(headers.getlist(name)) for name in _TRACE_CONTEXT if name in headers}


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
