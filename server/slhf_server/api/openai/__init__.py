"""OpenAI's endpoints. Each has its request, a table of its parameters, and its answer, whole or in chunks.

The application alone imports it.
"""
