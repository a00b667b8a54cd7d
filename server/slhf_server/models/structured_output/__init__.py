"""OpenAI's `response_format`: what a text must be. A schema is a client's program, so other processes read it.

`models/` and the OpenAI endpoints import it, and the service, which starts and ends the processes.
"""
