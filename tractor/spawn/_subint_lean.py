"""
The lean pack (see `_subint_pack.py`): what an interpreter really loads, with empty docstrings.

They are a fifteenth of the memory of an idle actor, and nobody reads them there. They become empty, not `None`: code
that builds upon one works. The first spare of a program makes the pack, in an interpreter of its own, so that nobody
waits for it.
"""

from __future__ import annotations

import marshal
import operator
import sys
from inspect import CO_NEWLOCALS
from opcode import opmap
from types import CodeType

from tractor.spawn import _subint_pack

# CPython 3.14 (Include/cpython/code.h): the first constant of a function is its docstring
_HAS_DOCSTRING: int = 0x4000000

# bytes at the start of the code of a class or module, in which it stores its docstring
_STORED_WITHIN: int = 80

_LOAD, _STORE = opmap['LOAD_CONST'], opmap['STORE_NAME']


def make() -> bytes:
    """A pack of what this interpreter has loaded, or put off, from the one it was given."""
    index, code = _subint_pack.split(_subint_pack.pack())
    return _subint_pack.join(
        (name, marshal.dumps(strip(marshal.loads(code[start:end]))), source, cached, is_package)
        for name, (start, end, source, cached, is_package) in index.items()
        if name in sys.modules
    )


def write(fd: int) -> None:
    """Make one and write it to a file descriptor."""
    with open(fd, 'wb', closefd=False) as file:
        file.write(make())


def strip(code: CodeType) -> CodeType:
    """The same code with empty docstrings, in all that is defined in it."""
    consts = [strip(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    where = _docstring(code)
    if where >= 0:
        consts[where] = ''
    elif all(map(operator.is_, consts, code.co_consts)):
        return code
    return code.replace(co_consts=tuple(consts))


def _docstring(code: CodeType) -> int:
    """Which constant is a docstring and nothing else; -1 if none is."""
    instructions = code.co_code
    if code.co_flags & _HAS_DOCSTRING:
        return 0 if _uses(instructions, bytes((_LOAD, 0))) == 0 else -1
    if code.co_flags & CO_NEWLOCALS or '__doc__' not in code.co_names:
        return -1
    name = code.co_names.index('__doc__')
    for at in range(0, min(len(instructions) - 2, _STORED_WITHIN), 2):
        constant = instructions[at + 1]
        if (instructions[at], *instructions[at + 2 : at + 4]) == (_LOAD, _STORE, name):
            is_text = isinstance(code.co_consts[constant], str)
            is_only = _uses(instructions, bytes((_LOAD, constant))) == 1
            return constant if is_text and is_only else -1
    return -1


def _uses(instructions: bytes, one: bytes) -> int:
    """How often an instruction occurs; too high a number if it is a part of longer ones."""
    count = at = 0
    while (at := instructions.find(one, at) + 1) > 0:
        count += at % 2
    return count
