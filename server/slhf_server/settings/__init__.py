"""What the operator says by flags, environment and file. It is read once at start, and no request changes it.

Every room may import it; it imports none.
"""
