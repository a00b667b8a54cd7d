"""A request becomes jobs (planner.py), a job is played round by round (loop.py), and its state decides how it ends.

The service, the API and observability import it; it knows neither HTTP nor vLLM.
"""
