"""
What may still change: topic based publishing to any number of subscribers.
"""

from tractor.experimental._pubsub import pub as msgpub

__all__ = ['msgpub']
