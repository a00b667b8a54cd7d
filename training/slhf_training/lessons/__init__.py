"""Lessons for both roles out of data whose answers a program can check."""
