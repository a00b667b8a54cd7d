"""Supervised learning of both roles in one adapter: what an answer, or a refinement of a draft, should have been."""
