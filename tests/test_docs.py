"""contract: the documentation and the README are true: what they show exists, and is current."""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tractor
from tractor._testing.addr import get_rando_addr

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
README = (ROOT / 'README.rst').read_text(encoding='utf-8')


@cache
def generator():
    spec = importlib.util.spec_from_file_location('docs_generate', DOCS / 'generate.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages():
    return {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob('*.rst')}


def one_of(pattern, text):
    return re.findall(pattern, text, re.MULTILINE)


# --- what is generated


def test_the_tables_are_current():
    present = {path.name: path.read_text(encoding='utf-8') for path in generator().TARGET.iterdir()}
    assert present == generator().render(), 'run: python docs/generate.py'


def test_every_table_is_shown():
    shown = {
        Path(name).name
        for text in pages().values()
        for name in one_of(r'^\.\. include:: (.*)$', text)
    }
    assert shown == {*generator().render()}


def test_a_dialog_is_told_by_its_data():
    dialog = generator().dialog_module()
    text = generator().dialog_text(dialog)
    steps = [
        f'{action} → {after}'
        for (phase, _), (after, action) in dialog.REQUESTER.items()
        if phase != after
    ]
    assert steps and all(step in text for step in steps)


def test_a_table_of_a_docstring_is_read():
    text = 'Text.\n\n| a | b |\n|---|---|\n| `x` | 1 |\n| y* | 2 |\n\nMore | text.\n'
    tables = generator().tables_in(text)
    assert tables == {'| a | b |': [['`x`', '1'], ['y*', '2']]}
    assert '   * - ``x``\n     - 1\n   * - y\\*\n     - 2\n' in generator().list_table(
        ['a', 'b'], tables['| a | b |']
    )


# --- what is referred to


def test_included_examples_exist():
    for name, text in pages().items():
        for target in one_of(r'^\.\. literalinclude:: (.*)$', text):
            assert (DOCS / name).parent.joinpath(target).resolve().is_file(), (name, target)


def test_pages_are_in_a_toctree():
    index = pages()['index.rst']
    listed = {f'{name}.rst' for name in one_of(r'^   ([a-z_]+/[a-z_]+)$', index)}
    assert listed == {name for name in pages() if name != 'index.rst' and name[0] != '_'}


def test_public_names_are_in_the_reference():
    text = ''.join(body for name, body in pages().items() if name.startswith('reference/'))
    named = {*one_of(r'^\.\. (?:auto)?(?:function|class|exception):: (\w+)$', text)}
    plain = {name for name in tractor.__all__ if not inspect.ismodule(getattr(tractor, name))}
    assert plain - named == set()


def test_documented_names_exist():
    for name, text in pages().items():
        module = tractor
        for line in text.splitlines():
            if found := re.match(r'\.\. currentmodule:: (.*)', line):
                module = importlib.import_module(found[1])
            elif found := re.match(r'\.\. auto\w+:: (\w+)', line):
                owner = getattr(module, found[1], None)
                assert owner is not None, (name, line)
            elif found := re.match(r' +:members: (.+)', line):
                missing = [attr for attr in found[1].split(', ') if not hasattr(owner, attr)]
                # attributes of instances
                missing = [attr for attr in missing if f'self.{attr}' not in source_text()]
                assert not missing, (name, owner, missing)


@cache
def source_text():
    """The text of the package, with the strings that Python joins joined."""
    parts = []
    for path in sorted((ROOT / 'tractor').rglob('*.py')):
        source = path.read_text(encoding='utf-8')
        parts.append(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                values = [v.value for v in node.values if isinstance(v, ast.Constant)]
                parts.append(''.join(map(str, values)))
    return '\n'.join(parts)


# made by Python or trio, not by the package
FOREIGN = {
    'got an unexpected keyword argument',
    'Attempted to call run() from inside a run()',
    'ModuleNotFoundError',
}


def test_explained_messages_exist():
    explained = one_of(r'^``(.+?)``.*\n    \S', pages()['guide/spawning.rst'])
    assert len(explained) > 20
    assert [text for text in explained if text not in source_text() and text not in FOREIGN] == []


@pytest.mark.parametrize('name', ['TRACTOR_LOGLEVEL', 'TRACTOR_SPAWN_METHOD'])
def test_environment_variables_are_documented(name):
    assert name in source_text()
    assert name in pages()['explain/architecture.rst']


def test_every_environment_variable_is_documented():
    read = {*one_of(r"environ(?:\.get\(|\[)'(TRACTOR_\w+)'", source_text())} - {'TRACTOR_TEST_ID'}
    assert read <= {*one_of(r'TRACTOR_\w+', pages()['explain/architecture.rst'])}


# --- the records

RECORDS = ROOT / 'ai'


def test_every_record_is_listed():
    listed = one_of(r'`([a-z_-]+\.(?:md|py))`', (RECORDS / 'README.md').read_text())
    present = {path.name for path in RECORDS.iterdir() if path.suffix in ('.md', '.py')}
    assert {*listed} == present - {'README.md'}


@pytest.mark.skipif(sys.platform != 'linux', reason='shows what Linux does')
@pytest.mark.parametrize('script', sorted(path.name for path in RECORDS.glob('*.py')))
def test_a_script_shows_what_its_record_says(script):
    if script.startswith('subint_') and sys.version_info < (3, 14):
        pytest.skip('sub-interpreters need CPython 3.14')
    done = subprocess.run(
        [sys.executable, str(RECORDS / script)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the README


@pytest.mark.spawns
def test_the_first_script_runs(tmp_path, start_method):
    (block,) = one_of(r'^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)', README)
    host, port = get_rando_addr('tcp')
    code = re.sub(r'^ {4}', '', block, flags=re.MULTILINE)
    private = code.replace('open_nursery()', f'open_nursery(registry_addrs=[({host!r}, {port})])')
    assert private != code
    (tmp_path / 'first.py').write_text(private)
    done = subprocess.run(
        [sys.executable, 'first.py'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'TRACTOR_SPAWN_METHOD': start_method},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.rpartition(', says process ')[0] for line in lines] == [
        '2 squared is 4',
        '3 squared is 9',
    ]
    # two actors: two processes, or two interpreters in one
    processes = {line.rpartition(' ')[2] for line in lines}
    assert len(processes) == (1 if start_method == 'subint' else 2)


def test_the_readme_names_all_backends():
    from tractor.demo.__main__ import BACKENDS

    assert [key for key in BACKENDS if f'``{key}``' not in README] == []
    assert [key for key in BACKENDS if f'``{key}``' not in pages()['guide/spawning.rst']] == []


def test_the_readme_is_right_about_pythons():
    config = (ROOT / 'pyproject.toml').read_text()
    versions = one_of(r'Python :: (3\.\d+)"', config)
    assert f'CPython {", ".join(versions[:-1])} or {versions[-1]}' in README


@pytest.mark.parametrize('target', ['demo', 'test', 'docs', 'help'])
def test_the_make_targets_exist(target):
    assert f'make {target}' in README
    assert one_of(rf'^{target}:', (ROOT / 'Makefile').read_text())


def test_the_readme_names_no_hosts():
    assert '://' not in README
