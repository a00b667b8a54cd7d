"""What operators see of the server: metrics, traces, and the form of its log.

The service and the command import it; it reads what `refinement/` and `access/` say, which know nothing of it.
"""
