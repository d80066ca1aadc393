"""end to end: where the modules of a sub-interpreter come from: the pack, late, or their files."""

from __future__ import annotations

import importlib
import marshal
import os
import py_compile
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.spawn import _subint_pack

if sys.version_info >= (3, 14):
    from tractor.spawn import _subint_lean

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('subint_import_peers')
parent = backend.load('subint_parent_peers')
in_subint = backend.in_subint

pytestmark = backend.needs_subint

PATIENCE = 60.0


# --- the pack by itself


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of a package that is packed, with a valid cache file."""
    source = tmp_path / 'packed_here.py'
    source.write_text('"""The text."""\nVALUE = 41\n')
    py_compile.compile(str(source), doraise=True)
    monkeypatch.setattr(_subint_pack, 'PACKED', _subint_pack.PACKED | {'packed_here'})
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module('packed_here')
    del sys.modules['packed_here']


def index_of(pack: bytes) -> dict[str, Any]:
    index, _ = _subint_pack.split(memoryview(pack))
    return index


def test_a_pack_holds_what_is_loaded(module: ModuleType) -> None:
    pack = _subint_pack._build()
    index = index_of(pack)
    assert {'packed_here', 'trio', 'trio._core._run', 'msgspec', 'logging'} <= set(index)
    # neither extensions, nor frozen modules, nor what is somebody else's
    assert not {'msgspec._core', '_socket', 'os', 'pytest', 'conftest', '__main__'} & set(index)
    assert index['trio'][4] and not index['trio._core._run'][4]

    finder = _subint_pack.PackFinder(memoryview(pack))
    spec = finder.find_spec('packed_here')
    assert spec is not None and spec.loader is not None
    assert (spec.origin, spec.cached) == (module.__file__, module.__cached__)
    assert spec.submodule_search_locations is None
    loaded: dict[str, Any] = {}
    exec(spec.loader.get_code('packed_here'), loaded)  # type: ignore[attr-defined]
    assert loaded['VALUE'] == 41
    # the second time it is for the stock finders, and the loader reads the file
    assert finder.find_spec('packed_here') is None
    again: CodeType = spec.loader.get_code('packed_here')  # type: ignore[attr-defined]
    assert again.co_filename == module.__file__


def test_a_package_has_its_folder() -> None:
    spec = _subint_pack.PackFinder(memoryview(_subint_pack._build())).find_spec('trio')
    assert spec is not None
    assert spec.submodule_search_locations == list(trio.__path__)


@pytest.mark.parametrize('harm', ['edited', 'other python', 'gone', 'cut', 'checked by hash'])
def test_a_cache_file_that_is_not_valid_is_left_to_the_stock_loader(
    module: ModuleType, harm: str
) -> None:
    source, cached = Path(str(module.__file__)), Path(module.__cached__)
    match harm:
        case 'edited':
            source.write_text('VALUE = 4242\n')
        case 'other python':
            cached.write_bytes(b'\0\0\r\n' + cached.read_bytes()[4:])
        case 'gone':
            cached.unlink()
        case 'cut':
            cached.write_bytes(cached.read_bytes()[:10])
        case _:
            mode = py_compile.PycInvalidationMode.CHECKED_HASH
            py_compile.compile(str(source), doraise=True, invalidation_mode=mode)
    assert 'packed_here' not in index_of(_subint_pack._build())


# --- empty docstrings


SOURCE = '''"""Of the module."""

def documented():
    """Of the function."""
    def inner():
        """Of the inner one."""
        return 'Of the inner one.'
    return inner

def repeating():
    """The same."""
    return 'The same.'

def without():
    return 'x'

class Class:
    """Of the class."""
    text = 'Of the class.'
    other = 1

    def method(self):
        """Of the method."""

class Plain:
    name = __doc__

async def coroutine():
    """Of the coroutine."""
'''


def run_source(code: CodeType) -> dict[str, Any]:
    names: dict[str, Any] = {'__name__': 'made_up'}
    exec(code, names)
    return names


def test_docstrings_become_empty_and_nothing_else_changes() -> None:
    code = compile(SOURCE, 'made_up.py', 'exec', dont_inherit=True)
    lean = _subint_lean.strip(code)
    before, after = run_source(code), run_source(lean)
    assert before['__doc__'] == 'Of the module.'
    assert after['__doc__'] == ''
    for name in ('documented', 'coroutine'):
        assert before[name].__doc__ and after[name].__doc__ == ''
        assert after[name].__code__.co_linetable == before[name].__code__.co_linetable
    assert after['Class'].method.__doc__ == ''
    # a text that is also used otherwise stays what it is
    assert after['repeating'].__doc__ == after['repeating']() == 'The same.'
    inner = after['documented']()
    assert inner.__doc__ == inner() == 'Of the inner one.'
    assert after['Class'].__doc__ == after['Class'].text == 'Of the class.'
    assert after['Class'].other == 1
    assert after['without']() == 'x'
    assert after['without'].__doc__ is None
    assert after['Plain'].name == ''


def test_code_without_docstrings_is_the_same_object() -> None:
    code = compile('def f():\n    return [1]\nclass C:\n    x = 1\n', 'made_up.py', 'exec')
    assert _subint_lean.strip(code) is code


def test_the_lean_pack_of_all_that_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    full = _subint_pack._build()
    monkeypatch.setattr(_subint_pack, '_pack', [full])
    monkeypatch.setitem(sys.modules, 'logging', None)
    monkeypatch.delitem(sys.modules, 'logging')
    lean = _subint_lean.make()
    assert set(index_of(full)) - set(index_of(lean)) == {'logging'}
    assert len(lean) < 0.95 * len(full)
    index, code = _subint_pack.split(memoryview(lean))
    for name, (start, end, source, *_) in index.items():
        loaded = marshal.loads(code[start:end])
        assert os.path.basename(loaded.co_filename) == os.path.basename(source), name


def test_it_is_ordered_once_and_then_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subint_pack, '_pack', [b'full'])
    monkeypatch.setattr(_subint_pack, '_is_ordered', [])
    assert [_subint_pack.order_lean() for _ in range(3)] == [True, False, False]
    _subint_pack.take_lean(b'lean')
    assert bytes(_subint_pack.pack()) == b'lean'
    assert _subint_pack._pack == [b'lean']


# --- in an actor


@pytest.fixture
def ask(in_subint: dict[str, Any]) -> Any:
    """The answer of an actor that is a sub-interpreter."""

    def ask(func: Any, spares: int = 0, before: Any = None, **kwargs: Any) -> Any:
        async def main() -> Any:
            async with tractor.open_nursery(**in_subint) as an:
                if before is not None:
                    await before(an)
                portal = await an.start_actor('asked', enable_modules=[peers.__name__])
                answer = await portal.run(func, **kwargs)
                await an.cancel()
                return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('TRACTOR_SUBINT_SPARES', str(spares))
            return run_bounded(main, timeout=PATIENCE)

    return ask


def test_what_trio_offers_and_an_actor_seldom_needs_comes_late(ask: Any) -> None:
    told = ask(peers.state_of_trio)
    assert {'trio._dtls', 'trio._ssl', 'trio._path', 'trio._subprocess'} <= set(told['put_off'])
    assert told['placeholders'] == []
    assert told['listed'] and not told['has_nonsense']
    assert told['modules'] == ['trio', 'trio', 'trio', 'trio.lowlevel']
    assert told['same'] and told['listing']
    assert told['output'] == b'hello\n'


def test_a_star_brings_what_it_brings_elsewhere(ask: Any) -> None:
    names: dict[str, Any] = {}
    exec('from trio import *', names)
    # a submodule is among them once something has loaded it
    here = {name for name, value in names.items() if not isinstance(value, ModuleType)}
    assert here - {'__builtins__'} <= set(ask(peers.import_all))


def test_the_runtime_comes_from_the_pack_and_the_users_code_from_files(ask: Any) -> None:
    names = ['trio._core._run', 'tractor.ipc._chan', 'msgspec', 'subint_import_peers']
    loaders = ask(peers.kinds_of_loaders, names=names)
    assert loaders == dict.fromkeys(names[:3], 'PackedLoader') | {names[3]: 'SourceFileLoader'}


def test_a_packed_module_knows_its_files(ask: Any) -> None:
    files = ask(peers.files_of, name='trio._core._run')
    run = sys.modules['trio._core._run']
    assert files == [run.__file__, run.__cached__] * 2
    assert ask(peers.source_of_sleep).startswith('async def sleep(')


def test_a_module_that_is_loaded_again_comes_from_its_file(ask: Any) -> None:
    assert ask(peers.reload, name='sniffio._version') == 'SourceFileLoader'


def test_a_package_that_is_loaded_again_gets_its_names_at_once(ask: Any) -> None:
    assert ask(peers.reload_trio) == ['trio', 'trio']


def test_msgspec_does_without_typing_extensions_and_the_user_need_not(ask: Any) -> None:
    pytest.importorskip('typing_extensions')
    assert ask(peers.extensions_of_msgspec) == 'typing'


def test_docstrings_of_the_runtime_are_empty_once_a_spare_was_made(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_subint_pack, '_pack', [])
    monkeypatch.setattr(_subint_pack, '_is_ordered', [])
    full = ask(peers.docstrings)
    assert all(full[:3])

    async def until_there_is_a_lean_pack(an: Any) -> None:
        size = len(_subint_pack.pack())
        await an.start_actor('first')
        await parent.until(lambda: len(_subint_pack.pack()) != size)
        # that one was loaded from the other pack
        await an.start_actor('second')

    lean = ask(peers.docstrings, spares=1, before=until_there_is_a_lean_pack)
    assert lean == ['', '', '', None]
