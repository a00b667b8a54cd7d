"""Anthropic's messages: the request and its parameters, its blocks as chat's messages, the answer whole and in events.

The application alone imports it.
"""
