"""HTTP: protocol, middleware, errors as JSON, event streams, `/v1/refine` and the operator's endpoints.

The application imports it, and `openai/`, whose endpoints it serves; it hands every request to the service.
"""
