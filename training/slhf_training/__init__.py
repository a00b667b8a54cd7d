"""Training of Leader/Follower bundles. Its first module is the game itself, in tables (`game`)."""

from slhf_training.game import Equilibrium, equilibrium

__all__ = ["Equilibrium", "equilibrium"]
