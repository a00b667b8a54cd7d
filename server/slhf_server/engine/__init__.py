"""vLLM in this process, and prompts as token ids. No other package imports vLLM, which takes seconds.

`loading/` alone imports this room, and late.
"""
