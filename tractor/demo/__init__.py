"""
`python -m tractor.demo`: one small tree of actors on every backend of this Python, and what becomes of it.

    __main__     the command line, the loop over the backends, the exit code
    _tree        what the root does with one tree: boot, measure, work, failure
    _actors      what supervisors and workers do
    _leftovers   which processes are still there afterwards
    _report      lines, colours, the table
"""
