"""end to end: extension modules in interpreters with their own GIL: private copies, and what is given back of them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('subint_loader_peers')
parent = backend.load('subint_parent_peers')
in_subint = backend.in_subint

pytestmark = backend.needs_subint

HERE = Path(__file__).parent
PEERS = 'subint_loader_peers'
LOADER = HERE.parents[1] / 'tractor' / 'spawn' / '_subint_loader.py'
PATIENCE = 60.0

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]

# each counts the calls of `bump()` in static memory
SOURCE = """
#include <Python.h>
static int calls;
static PyObject *bump(PyObject *m, PyObject *a) { return PyLong_FromLong(++calls); }
static PyMethodDef methods[] = {{"bump", bump, METH_NOARGS, ""}, {0}};
static int on_exec(PyObject *m) { return PyModule_AddIntConstant(m, "executed", 1); }
static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, on_exec}, {Py_mod_multiple_interpreters, SUPPORT}, {0}
};
#ifdef SINGLE
static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, NAME, "", -1, methods};
PyMODINIT_FUNC INIT(void) {
    PyObject *m = PyModule_Create(&def);
    if (m) on_exec(m);
    return m;
}
#else
static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, NAME, "", 0, methods, slots};
PyMODINIT_FUNC INIT(void) { return PyModuleDef_Init(&def); }
#endif
"""
SHAPES = {
    'single_phase': ['-DSINGLE', '-DSUPPORT=Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED'],
    'multi_phase': ['-DSUPPORT=Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED'],
    'refusing': ['-DSUPPORT=Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED'],
    'supporting': ['-DSUPPORT=Py_MOD_PER_INTERPRETER_GIL_SUPPORTED'],
}


@pytest.fixture(scope='module')
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an extension module of each shape."""
    compiler = shutil.which('gcc') or shutil.which('cc')
    include = Path(sysconfig.get_path('include'))
    if compiler is None or not (include / 'Python.h').exists():
        pytest.skip('needs a C compiler and the headers of Python')
    folder = tmp_path_factory.mktemp('extensions')
    source = folder / 'shape.c'
    source.write_text(SOURCE)
    for name, flags in SHAPES.items():
        subprocess.run(
            [
                compiler, '-shared', '-fPIC', f'-I{include}', f'-I{include.parent}', f'-DNAME="{name}"',
                f'-DINIT=PyInit_{name}', *flags, str(source), '-o', str(folder / f'{name}{SUFFIX}'),
            ],
            check=True,
        )  # fmt: skip
    return folder


# run in an interpreter of its own
BOOT = """
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location('tractor.spawn._subint_loader', LOADER)
loader = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loader)
loader.install(COPIES)
sys.path.insert(0, FOLDER)
def tell(**facts):
    os.write(FD, json.dumps(facts).encode() + b'\\n')
"""


class Interpreter:
    """A bare one, with the loader in it."""

    def __init__(self, folder: Path, copies: tuple[tuple[str, str, str], ...] = ()) -> None:
        from concurrent import interpreters

        self._ours, theirs = os.pipe()
        self._theirs = theirs
        self._interp = interpreters.create()
        self._interp.prepare_main(LOADER=str(LOADER), COPIES=copies, FOLDER=str(folder), FD=theirs)
        self._interp.exec(BOOT)

    def run(self, code: str) -> dict[str, Any]:
        """Run code which calls `tell()` once; what it told."""
        self._interp.exec(code)
        facts: dict[str, Any] = json.loads(os.read(self._ours, 65536))
        return facts

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._interp.close()
        os.close(self._ours)
        os.close(self._theirs)


BUMP = """
import {name} as it
tell(calls=[it.bump(), it.bump()], executed=it.executed, handles=len(loader.handles()), file=it.__spec__.origin)
"""


def private_copy(extensions: Path, name: str, folder: Path) -> tuple[str, str, str]:
    path = folder / f'copy-{os.urandom(4).hex()}.so'
    shutil.copy(extensions / f'{name}{SUFFIX}', path)
    return name, str(path), path.name


@pytest.mark.parametrize('name', ['single_phase', 'multi_phase', 'refusing'])
def test_private_copies(extensions: Path, tmp_path: Path, name: str) -> None:
    """Whatever the init function returns; and what is static in one is not in another."""
    with (
        Interpreter(extensions, (private_copy(extensions, name, tmp_path),)) as one,
        Interpreter(extensions, (private_copy(extensions, name, tmp_path),)) as other,
    ):
        for interpreter in (one, other):
            facts = interpreter.run(BUMP.format(name=name))
            assert facts == {
                'calls': [1, 2],
                'executed': 1,
                'handles': 1,
                'file': str(extensions / f'{name}{SUFFIX}'),
            }
        assert one.run(BUMP.format(name=name))['calls'] == [3, 4]


def test_the_copy_of_one_that_supports_it_is_not_touched(extensions: Path, tmp_path: Path) -> None:
    copy = private_copy(extensions, 'supporting', tmp_path)
    with Interpreter(extensions, (copy,)) as one, Interpreter(extensions, (copy,)) as other:
        assert one.run(BUMP.format(name='supporting'))['calls'] == [1, 2]
        facts = other.run(BUMP.format(name='supporting'))
    # the stock importer has mapped it once
    assert (facts['calls'], facts['handles']) == ([3, 4], 0)


@pytest.mark.parametrize('name', ['single_phase', 'multi_phase', 'refusing'])
def test_refused_unless_it_is_on_the_list(extensions: Path, name: str) -> None:
    with Interpreter(extensions) as interpreter:
        facts = interpreter.run(
            f'try:\n    import {name}\nexcept ImportError as err:\n'
            '    tell(text=str(err), name=err.name, path=err.path)'
        )
    assert facts['text'] == (
        f"the extension module '{name}' does not support sub-interpreters: "
        "use start_method='trio' for this actor"
    )
    assert facts['name'] == name
    assert facts['path'] == str(extensions / f'{name}{SUFFIX}')


def test_other_import_errors_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / f'broken{SUFFIX}').write_bytes(b'no library')
    (tmp_path / 'failing.py').write_text('raise ImportError("on its own")')
    with Interpreter(tmp_path) as interpreter:
        facts = interpreter.run(
            'texts = []\nfor name in ("broken", "failing", "absent"):\n    try:\n        __import__(name)\n'
            '    except ImportError as err:\n        texts.append(str(err))\ntell(texts=texts)'
        )
    broken, failing, absent = facts['texts']
    assert 'sub-interpreters' not in broken
    assert 'broken' in broken
    assert failing == 'on its own'
    assert absent == "No module named 'absent'"


def test_other_modules_and_finders_are_left_alone(tmp_path: Path) -> None:
    """Plain Python, and what the finder of an editable install finds."""
    (tmp_path / 'plain.py').write_text('x = 1')
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'editable.py').write_text('x = 2')
    with Interpreter(tmp_path) as interpreter:
        facts = interpreter.run(f"""
class Editable:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == 'editable':
            return importlib.util.spec_from_file_location(name, {str(elsewhere / 'editable.py')!r})
sys.meta_path.insert(0, Editable)
import plain, editable, importlib.resources
tell(
    loaders=[type(module.__spec__.loader).__name__ for module in (plain, editable)],
    values=[plain.x, editable.x], first=sys.meta_path[0] is Editable,
    found=importlib.util.find_spec('absent') is None,
)
""")
    assert facts == {
        'loaders': ['SourceFileLoader', 'SourceFileLoader'],
        'values': [1, 2],
        'first': True,
        'found': True,
    }


# --- in actors


def call(options: dict[str, Any], fn: Any, count: int = 1, **kwargs: Any) -> tuple[Any, list[str]]:
    """Call a function in so many actors, one by one; the results, and why memory was not given back."""
    results, children = [], []

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            for index in range(count):
                portal = await an.start_actor(f'loads{index}', enable_modules=[PEERS])
                children.append(parent.child_of(an, portal))
                results.append(await portal.run(fn, **kwargs))
            await an.cancel()

    run_bounded(main, timeout=PATIENCE)
    return results, [child.proc._driver.leak for child in children]


@pytest.mark.parametrize('name', ['faulthandler', 'numpy'])
def test_an_actor_imports_one_that_refuses(in_subint: dict[str, Any], name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed')
    with pytest.raises(tractor.RemoteActorError) as raised:
        call(in_subint, peers.import_it, name=name)
    assert raised.value.boxed_type is ImportError
    assert "use start_method='trio' for this actor" in str(raised.value)
    assert name in str(raised.value)


def test_each_actor_has_its_own(in_subint: dict[str, Any]) -> None:
    facts, leaks = call(in_subint, peers.modules_of_msgspec, count=3)
    assert len({fact['address'] for fact in facts} | {id(peers.msgspec.Struct)}) == 4
    assert leaks == ['', '', '']


def test_given_back_after_work(in_subint: dict[str, Any]) -> None:
    _, leaks = call(in_subint, peers.encode_and_decode, rounds=200)
    assert leaks == ['']


def test_unions_cost_nothing(in_subint: dict[str, Any]) -> None:
    """What the measure against it is for: without it each costs a tuple."""
    (facts,), leaks = call(in_subint, peers.union_types)
    assert facts['is_one']
    assert facts['blocks'] < 100
    assert leaks == ['']


@pytest.mark.parametrize(
    ('kind', 'text'),
    [
        ('version', 'keeps is not known'),
        ('layout', 'is not laid out as expected'),
        ('object', 'of its objects are alive'),
        ('subclass', 'still has'),
        ('maps', 'its place in memory is not known'),
    ],
)
def test_nothing_is_given_back_in_doubt(in_subint: dict[str, Any], kind: str, text: str) -> None:
    _, (leak,) = call(in_subint, peers.raise_doubt, kind=kind)
    assert leak.startswith('msgspec._core: ')
    assert text in leak


def test_interpreters_in_interpreters(in_subint: dict[str, Any]) -> None:
    (below,), leaks = call(in_subint, peers.nested, depth=2)
    assert below == ['', '']
    assert leaks == ['']


# --- many at once

FULL = os.environ.get('TRACTOR_SUBINT_SOAK') == 'full'
ROUNDS = 10 if FULL else 3


@pytest.mark.timeout(320)
def test_eight_at_once() -> None:
    soak = load_module_from_path(HERE / 'test_subint_soak.py', 'subint_soak_of_boots').soak
    _, report = soak('boots.py', str(ROUNDS))
    assert report == {'ended': 8 * ROUNDS, 'leaks': []}
