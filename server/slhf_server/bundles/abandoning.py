"""Whether a start is still wanted: a server that is told to end must not fetch a gigabyte first.

The engine is opened in a thread, which cannot be stopped from outside; so work that takes long and can be resumed asks
here every now and then. The answer is a context variable, because `OpenEngine` gets nothing but settings.
"""

import threading
from contextvars import ContextVar

from slhf_server.settings.problem import SettingsError

_ABANDONED: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


def may_be_abandoned() -> threading.Event:
    """An event; once it is set, what is called in this context from now on is abandoned."""
    event = threading.Event()
    _ABANDONED.set(event)
    return event


def go_on() -> None:
    """Raises SettingsError where the engine is no longer wanted."""
    event = _ABANDONED.get()
    if event is not None and event.is_set():
        raise SettingsError("the server was told to end before its engine was loaded")
