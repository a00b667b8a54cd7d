"""The one interface that every model implements (base.py), thoughts in its text, and a fake one for tests.

Every room above imports it: the loop of rounds knows models by this interface alone. The engine's roles (engine/) and
upstreams (upstream/) implement it.
"""
