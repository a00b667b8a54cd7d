"""Who may use the server, and how much of it at once: API keys, and places for requests.

The service and the API import it; it imports deadlines, errors and settings alone.
"""
