"""The error of a bad setting, whichever room finds it."""


class SettingsError(Exception):
    """The server refuses to start; the message names key and value."""
