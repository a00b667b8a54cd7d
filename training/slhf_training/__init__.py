"""Training of Leader/Follower bundles. What it has to reach is the game itself, in tables (`tabular`)."""

from slhf_training.tabular.stackelberg import Equilibrium, equilibrium

__all__ = ["Equilibrium", "equilibrium"]
