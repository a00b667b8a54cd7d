"""SLHF: improve any language model's answer, round by round.

`Client` and `AsyncClient` talk to a refinement server; the other names are its vocabulary: what travels over HTTP, what
can go wrong, and the bundle that training writes and the server loads. `slhf.batch` refines a file. Modules whose names
begin with an underscore are not public; the remaining ones are shared with the server and with training.
"""

from importlib.metadata import version

from slhf._exchange import Conversation, Options
from slhf.bundle import (
    Bundle,
    OwnAnswers,
    RoleWeights,
    SamplingDefaults,
    StopRules,
    read_bundle,
    revision_of,
    write_bundle,
)
from slhf.cards import ModelCard
from slhf.client import AsyncClient, Client
from slhf.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    BundleError,
    ConfigurationError,
    ContextLengthExceeded,
    DeadlineExceeded,
    InputError,
    ModelNotFound,
    PayloadTooLarge,
    RateLimited,
    SandboxError,
    SLHFError,
    TransportError,
    TransportTimeout,
    Unavailable,
)
from slhf.history import Message
from slhf.turns import FOLLOWER_TURN, follower_turn
from slhf.wire import (
    Event,
    Refinement,
    RefinementCompleted,
    RefineOptions,
    RefineRequest,
    RefineResponse,
    Round,
    RoundCompleted,
    RoundDelta,
    RoundJudged,
    RoundStarted,
    Selection,
    Usage,
)

__version__ = version("slhf")

__all__ = [
    "FOLLOWER_TURN",
    "APIError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequest",
    "Bundle",
    "BundleError",
    "Client",
    "ConfigurationError",
    "ContextLengthExceeded",
    "Conversation",
    "DeadlineExceeded",
    "Event",
    "InputError",
    "Message",
    "ModelCard",
    "ModelNotFound",
    "Options",
    "OwnAnswers",
    "PayloadTooLarge",
    "RateLimited",
    "RefineOptions",
    "RefineRequest",
    "RefineResponse",
    "Refinement",
    "RefinementCompleted",
    "RoleWeights",
    "Round",
    "RoundCompleted",
    "RoundDelta",
    "RoundJudged",
    "RoundStarted",
    "SLHFError",
    "SamplingDefaults",
    "SandboxError",
    "Selection",
    "StopRules",
    "TransportError",
    "TransportTimeout",
    "Unavailable",
    "Usage",
    "__version__",
    "follower_turn",
    "read_bundle",
    "revision_of",
    "write_bundle",
]
