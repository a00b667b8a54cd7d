"""vLLM in this process: the one package that imports it, seconds long; prompts as token ids are its own, too.

`loading/` alone imports it, and late.
"""
