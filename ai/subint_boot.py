"""
What `subint-boot.md` says, observed: a new interpreter takes its modules from the pack, has put off what it seldom
needs, and once a spare has made the lean pack its docstrings are empty and it is smaller.

    python ai/subint_boot.py

Exit code 0 if all was seen. CPython 3.14.
"""

# what is waited for tells nobody
# ruff: noqa: ASYNC110

from __future__ import annotations

import sys
from typing import Any

import trio

import tractor
from tractor.spawn import _subint_pack


async def look() -> dict[str, Any]:
    """Where the modules of this interpreter come from."""
    kinds = [
        type(module.__spec__.loader).__name__ for module in sys.modules.values() if module.__spec__
    ]
    late = [name for name, module in sys.modules.items() if type(module).__name__ == '_LateModule']
    return {
        'packed': kinds.count('PackedLoader'),
        'from_files': kinds.count('SourceFileLoader'),
        'put_off': len(late),
        'docstring': len(trio.open_nursery.__doc__ or ''),
    }


async def ask(an: tractor.ActorNursery, name: str) -> dict[str, Any]:
    """Start an actor, and look from there."""
    portal = await an.start_actor(name, enable_modules=[__name__])
    told: dict[str, Any] = await portal.run(look)
    print(f'{name}: {told}')
    return told


async def main() -> bool:
    """Whether it is so."""
    async with tractor.open_nursery(start_method='subint') as an:
        first = await ask(an, 'first')
        full = len(_subint_pack.pack())
        with trio.fail_after(20):
            # the spare that makes it tells nobody
            while (lean := len(_subint_pack.pack())) == full:
                await trio.sleep(0.01)
        await ask(an, 'second')
        third = await ask(an, 'third')
        await an.cancel()
    print(f'the pack: {full} bytes, then {lean}')
    return (
        first['packed'] > 150
        and first['packed'] > 10 * first['from_files']
        and first['put_off'] >= 6
        and first['docstring'] > 0 == third['docstring']
        and lean < full
    )


if __name__ == '__main__':
    sys.exit(0 if trio.run(main) else 1)
