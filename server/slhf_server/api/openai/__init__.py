"""OpenAI's endpoints: for each one its request, what becomes of its parameters, and its answer, whole or in chunks.

The application alone imports it.
"""
