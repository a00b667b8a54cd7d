"""The game in tables: one prompt, n answers, numpy. What a trainer of language models has to reach, and a playground.

policies      distributions over answers: best response, mirror and projected steps
stackelberg   SLHF: the equilibrium in closed form, StackelbergGDA (Algorithm 1)
baselines     RLHF (Bradley-Terry) and NLHF (mirror-prox)
preferences   matrices of annotators and at random; Condorcet winners and cycles
reach         the probability that a user sees their favourite within N answers
condorcet     the example of three annotator types, solved by all of them: `slhf-train games`
"""
