"""
Tools for whoever develops with actors.
"""
