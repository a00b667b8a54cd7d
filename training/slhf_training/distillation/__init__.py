"""Two teachers' roles into one adapter: a Leader and a Follower that have weights of their own, and no room to merge.

Roles trained apart, or a Leader held nearer to the base than its Follower, have adapters that cannot be merged at load.
Here the teachers write, and one adapter learns each role's next-token distributions on what that role wrote
(policy distillation, arXiv 1511.06295; full distributions as in arXiv 1503.02531).
"""
