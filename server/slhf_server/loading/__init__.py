"""From the setting `bundle` to a running engine: the bundle is found, merged, quantized, and opened in a thread.

The application and the command import it; it is the one room that imports `builtin/` and `engine/`.
"""
