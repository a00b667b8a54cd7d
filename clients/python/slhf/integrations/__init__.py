"""Where other programs call a refinement server: a module for each, which needs that program installed.

Nothing of `slhf` imports these modules, so the library needs none of those programs.
"""
