"""What the tests of imports in sub-interpreters run in actors."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import trio


async def state_of_trio() -> dict[str, Any]:
    """What is put off, then what comes when it is asked for."""
    late = sys.modules['tractor.spawn._subint_late']
    put_off = {
        name for name, module in sys.modules.items() if type(module).__name__ == '_LateModule'
    }
    told: dict[str, Any] = {
        'put_off': sorted(put_off & late.NAMES.keys()),
        'listed': 'DTLSEndpoint' in dir(trio),
        'placeholders': [
            name for name, value in vars(trio).items() if isinstance(value, late._Missing)
        ],
        'has_nonsense': hasattr(trio, 'nonsense'),
    }
    from trio import SSLStream

    told['modules'] = [
        SSLStream.__module__,
        trio.DTLSEndpoint.__module__,
        trio.Path.__module__,
        trio.lowlevel.open_process.__module__,
    ]
    told['same'] = SSLStream is trio.SSLStream is sys.modules['trio._ssl'].SSLStream
    told['listing'] = sorted(map(str, await trio.Path('/proc/self/task').iterdir()))[:1] != []
    told['output'] = (await trio.run_process(['echo', 'hello'], capture_stdout=True)).stdout
    return told


async def import_all() -> list[str]:
    names: dict[str, Any] = {}
    exec('from trio import *', names)
    return sorted(names.keys() - {'__builtins__'})


async def kinds_of_loaders(names: list[str]) -> dict[str, str]:
    return {name: type(sys.modules[name].__spec__.loader).__name__ for name in names}


async def files_of(name: str) -> list[Any]:
    module = sys.modules[name]
    assert module.__spec__ is not None
    return [module.__file__, module.__cached__, module.__spec__.origin, module.__spec__.cached]


async def source_of_sleep() -> str:
    return inspect.getsource(trio.sleep)


async def reload(name: str) -> str:
    """Load a module again; by which loader."""
    module = importlib.reload(sys.modules[name])
    assert module.__spec__ is not None
    return type(module.__spec__.loader).__name__


async def reload_trio() -> list[str]:
    """The package takes all names, once more; where two of them come from."""
    importlib.reload(trio)
    return [trio.DTLSEndpoint.__module__, trio.Path.__module__]


async def docstrings() -> list[str | None]:
    return [trio.sleep.__doc__, trio.__doc__, trio.Event.__doc__, source_of_sleep.__doc__]


async def extensions_of_msgspec() -> str:
    """What `msgspec` works with is the standard library's."""
    import msgspec._utils
    import typing_extensions

    assert typing_extensions.get_type_hints is not None
    return msgspec._utils._get_type_hints.__module__
