"""Lessons for both roles out of data whose answers a program can check.

No other room imports it.
"""
