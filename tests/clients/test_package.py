import importlib.metadata
import subprocess
import sys

import slhf

PUBLIC = """
FOLLOWER_TURN APIError AsyncClient AuthenticationError BadRequest Bundle BundleError Client ConfigurationError
ContextLengthExceeded Conversation DeadlineExceeded Event InputError Message ModelCard ModelNotFound Options
OwnAnswers PayloadTooLarge RateLimited RefineOptions RefineRequest RefineResponse Refinement RefinementCompleted
RoleWeights Round RoundCompleted RoundDelta RoundJudged RoundStarted SLHFError SamplingDefaults SandboxError Selection
StopRules TransportError TransportTimeout Unavailable Usage __version__ follower_turn read_bundle revision_of
write_bundle
"""


def test_the_public_names_are_these() -> None:
    assert sorted(slhf.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(slhf, name) for name in slhf.__all__)


def test_every_exception_of_the_tree_is_public() -> None:
    def below(kind: type[BaseException]) -> set[str]:
        return {kind.__name__}.union(*map(below, kind.__subclasses__()))

    assert below(slhf.SLHFError) <= set(slhf.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert slhf.__version__ == importlib.metadata.version("slhf")


def test_importing_the_library_loads_no_server_no_model_and_no_command() -> None:
    heavy = {"torch", "vllm", "fastapi", "starlette", "transformers", "typer", "rich", "openai"}
    program = f"import sys, slhf, slhf.batch, slhf.cli; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout == "[]\n"
