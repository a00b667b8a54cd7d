"""The game in tables: one prompt, n answers, numpy. What a trainer of language models has to reach, and a playground.

No other room imports it.

games         distributions over answers and matrices of annotators; RLHF (Bradley-Terry) and NLHF (mirror-prox)
stackelberg   SLHF: the equilibrium in closed form, StackelbergGDA (Algorithm 1)
condorcet     the example of three annotator types, solved by all of them: `slhf-train games`
"""
