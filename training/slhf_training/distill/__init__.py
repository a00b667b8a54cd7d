"""Two teachers' roles into one bundle: a Leader and a Follower that were trained apart, or to different lengths.

A Leader that the Follower beats stays nearer to the base than its Follower, so one run's adapter is not both. Here the
teachers write, and an adapter learns the next-token distributions on what they wrote (policy distillation, arXiv
1511.06295; full distributions as in arXiv 1503.02531): of both roles at once, or of the Follower alone, which then
also learns what a choice or a program made of its answers.
"""
