"""Which of two texts was better: shadow mode, votes, what is kept of both, and how sure it is.

The service alone imports it; it imports refinement, models and settings.
"""
