"""The page at `GET /`: its files as they are, in the wheel, and the one module that serves them.

The application alone imports it. The page calls the endpoints like any client; it has no door of its own.
"""
