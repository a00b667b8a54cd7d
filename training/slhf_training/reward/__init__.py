"""Reward models: heads on a language model's body, trained, measured, and asked."""
