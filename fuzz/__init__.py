"""Fuzzing of everything that a peer, or a command line, can make this package read; see `docs/explain/fuzzing.rst`."""
