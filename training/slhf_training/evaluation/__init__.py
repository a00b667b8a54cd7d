"""Evaluation of Leaders and Followers as the paper does it: answers, judgements, statistics, one report."""
