"""Judges of two texts, a file for each kind, all of the one interface in models/judge.py; kinds.py opens those that are
configured. The service alone imports it: whoever asks a judge knows the interface.
"""
