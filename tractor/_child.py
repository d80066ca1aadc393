"""
`python -m tractor._child`: the process of an actor, started by its parent. Nobody runs this by hand.
"""

from __future__ import annotations

import argparse
from ast import literal_eval
from typing import Any

# what `literal_eval()` raises for texts that are no literal
_NO_LITERAL = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)


def parse_uid(text: str) -> tuple[str, str]:
    """
    `"('name', 'uuid')"` as a pair.

    Raises:
        ValueError: it is none.
    """
    try:
        name, uuid = literal_eval(text)
    except _NO_LITERAL as err:
        raise ValueError(f'not a pair of two texts: {text}') from err
    return str(name), str(uuid)


def parse_addr(text: str) -> Any:
    """An unwrapped address: a literal pair, or a string as it is."""
    try:
        return literal_eval(text)
    except _NO_LITERAL:
        return text


def read_key(fd: int) -> bytes:
    """The key that the parent left in a pipe."""
    with open(fd, 'rb') as pipe:
        return pipe.read()


def main() -> None:
    """Parse the command line and become that actor."""
    parser = argparse.ArgumentParser(prog='tractor._child')
    parser.add_argument('--uid', type=parse_uid, required=True)
    parser.add_argument('--loglevel', default=None)
    parser.add_argument('--parent_addr', type=parse_addr, required=True)
    parser.add_argument('--asyncio', action='store_true')
    parser.add_argument('--tls', type=parse_uid, default=None)
    parser.add_argument('--key_fd', type=int, default=None)
    args = parser.parse_args()
    key = None if args.key_fd is None else read_key(args.key_fd)

    from tractor.ipc import _auth
    from tractor.spawn._entry import _actor_child_main

    _auth.forget_env()
    _actor_child_main(
        args.uid, args.loglevel, args.parent_addr, args.asyncio, authkey=key, tls=args.tls
    )


if __name__ == '__main__':
    main()
