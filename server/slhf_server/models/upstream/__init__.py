"""Another server's model over HTTP, by OpenAI's chat completions as each provider understands them.

The service alone imports it, and only where upstreams are configured.
"""
