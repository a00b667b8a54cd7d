"""Whether what a start is doing is still wanted: a server that is told to end must not fetch a gigabyte first.

The engine is opened in a thread, which nothing can stop from outside; so what takes long and can go on later asks here
every now and then. A context variable, because those who open an engine hand it nothing but settings.
"""

import threading
from contextvars import ContextVar

from slhf_server.settings.problem import SettingsError

_ABANDONED: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


def may_be_abandoned() -> threading.Event:
    """What is called in this context from now on is abandoned once the event is set."""
    event = threading.Event()
    _ABANDONED.set(event)
    return event


def go_on() -> None:
    """Raises SettingsError where nobody waits for the engine any more."""
    event = _ABANDONED.get()
    if event is not None and event.is_set():
        raise SettingsError("the server was told to end before its engine was loaded")
