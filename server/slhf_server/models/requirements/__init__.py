"""What a prompt asks for that a program can check, read from its last user turn (readers.py).

The Follower's own answers (models/comparing.py) and what a round must keep (refinement/kept.py) look at it. English
alone is read, and only where a sentence can mean nothing else.
"""
