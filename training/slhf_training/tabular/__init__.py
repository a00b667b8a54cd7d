"""The game in tables: one prompt and n answers, in numpy. It is what a trainer of language models has to reach.

No other room imports it.

games         distributions over answers and matrices of annotators; RLHF (Bradley-Terry) and NLHF (mirror-prox)
stackelberg   SLHF: the equilibrium in closed form, StackelbergGDA (Algorithm 1)
condorcet     the example of three annotator types, solved by all of them: `slhf-train games`
"""
