"""What the operator says: flags, environment, file, default. Read once at start; no request changes it.

Every room may import it; it imports none.
"""
