"""Models by their names: bundles, prompts, roles, adapters, log-probs, and how they lie on several devices."""
