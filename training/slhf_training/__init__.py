"""Trains bundles of a Leader and a Follower. The names exported here solve the same game exactly, in tables."""

from slhf_training.tabular.stackelberg import Equilibrium, equilibrium

__all__ = ["Equilibrium", "equilibrium"]
