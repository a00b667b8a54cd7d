"""What a non-streamed answer says in its headers."""

from slhf_server.chain import Outcome


def refinement_headers(outcome: Outcome) -> dict[str, str]:
    refinement = outcome.refinement
    return {
        "X-SLHF-Applied": str(refinement.applied).lower(),
        "X-SLHF-Rounds": str(refinement.rounds_run),
        "X-SLHF-Stop-Reason": refinement.stop_reason,
        "X-SLHF-Duration-Ms": f"{refinement.duration_ms:.1f}",
        "X-SLHF-Overhead-Ms": f"{outcome.overhead_ms:.1f}",
    }
