"""Opens the engine that `bundle` asks for: finds, merges and quantizes the bundle, and loads it in a thread.

The application and the command import it; it is the one room that imports `builtin/` and `engine/`.
"""
