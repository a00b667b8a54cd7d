"""A bundle on local disk, and what is made of it once, in the cache: merged and quantized weights.

`loading/`, `builtin/`, `engine/` and the service import it; it imports settings alone.
"""
