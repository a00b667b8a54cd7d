"""Another server's model over HTTP, in the words of OpenAI's chat completions as each provider speaks them.

The service alone imports it, and only where upstreams are configured.
"""
