"""
`python -m tractor._child`: the process of an actor, started by its parent. Nobody runs this by hand.
"""

from __future__ import annotations

import argparse
from ast import literal_eval
from typing import Any


def parse_uid(text: str) -> tuple[str, str]:
    """`"('name', 'uuid')"` as a pair."""
    name, uuid = literal_eval(text)
    return str(name), str(uuid)


def parse_addr(text: str) -> Any:
    """An unwrapped address: a literal pair, or a string as it is."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main() -> None:
    """Parse the command line and become that actor."""
    parser = argparse.ArgumentParser(prog='tractor._child')
    parser.add_argument('--uid', type=parse_uid, required=True)
    parser.add_argument('--loglevel', default=None)
    parser.add_argument('--parent_addr', type=parse_addr, required=True)
    parser.add_argument('--asyncio', action='store_true')
    args = parser.parse_args()

    from tractor.spawn._entry import _actor_child_main

    _actor_child_main(args.uid, args.loglevel, args.parent_addr, args.asyncio)


if __name__ == '__main__':
    main()
