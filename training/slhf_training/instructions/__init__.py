"""Prompts with instructions that a program can check: read, and written."""
