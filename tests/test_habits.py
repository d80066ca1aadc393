"""contract: sizes and habits of the source that no linter of ours knows.

Reads the files only; nothing of the package is imported.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SOFT_FILE_LIMIT, HARD_FILE_LIMIT, BODY_LIMIT = 500, 800, 60

LONG_FILES: dict[str, str] = {}
"""Files above the soft limit, with the reason."""

LONG_BODIES: dict[str, str] = {}
"""Functions, as `path::qualname`, above the limit, with the reason; at most `MAX_LONG_BODIES`."""

MAX_LONG_BODIES = 5

STUCK_MARK, VIRTUAL_TIME = '# stuck on purpose', ('MockClock', 'autojump_clock', '# virtual time')


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


@cache
def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- sizes


def functions(tree: ast.AST, prefix: str = '') -> Iterator[tuple[str, ast.AST]]:
    """Yield every function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f'{prefix}.{node.name}' if prefix else node.name
            if not isinstance(node, ast.ClassDef):
                yield name, node
        yield from functions(node, name)


def body_lines(function: ast.AST) -> int:
    """Return how many lines the body has without its docstring."""
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    body = function.body
    start = body[0].lineno
    if ast.get_docstring(function, clean=False) is not None:
        if len(body) == 1:
            return 0
        start = (body[0].end_lineno or start) + 1
    return (body[-1].end_lineno or start) - start + 1


def test_files_are_short():
    lengths = {
        shown(path): len(path.read_text(encoding='utf-8').splitlines())
        for path in sources('tractor', 'tests')
    }
    excused = {name for name, reason in LONG_FILES.items() if reason}
    wrong = {
        name: length
        for name, length in lengths.items()
        if length > HARD_FILE_LIMIT or (length > SOFT_FILE_LIMIT and name not in excused)
    }
    assert not wrong, f'split these, or give a reason in LONG_FILES: {wrong}'
    stale = {name for name in LONG_FILES if lengths.get(name, 0) <= SOFT_FILE_LIMIT}
    assert not stale, f'no longer too long, remove from LONG_FILES: {stale}'


def test_functions_are_short():
    lengths = {
        f'{shown(path)}::{name}': body_lines(node)
        for path in sources('tractor', 'tests')
        for name, node in functions(tree_of(path))
    }
    excused = {name for name, reason in LONG_BODIES.items() if reason}
    wrong = {n: size for n, size in lengths.items() if size > BODY_LIMIT and n not in excused}
    assert not wrong, f'make the steps functions of their own: {wrong}'
    stale = {name for name in LONG_BODIES if lengths.get(name, 0) <= BODY_LIMIT}
    assert not stale, f'no longer too long, remove from LONG_BODIES: {stale}'
    assert len(LONG_BODIES) <= MAX_LONG_BODIES


# --- comments


TO_DO = re.compile(r'\b(TODO|FIXME|XXX|HACK)\b')


def is_code(text: str) -> bool:
    """Tell whether the text of a comment is a statement; prose that parses is given the benefit."""
    text = text.strip()
    if text.endswith(':') and re.match(r'(async )?(def|class|for|with) .*[(\[.]', text):
        text += ' pass'
    try:
        (node,) = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    match node:
        case ast.Expr(value=value):
            return isinstance(value, ast.Call | ast.Await)
        case ast.Return(value=value) | ast.Raise(exc=value):
            return not isinstance(value, ast.Name | None)
        case ast.AnnAssign(value=value):
            return value is not None
        case ast.Assert(test=test):
            return not isinstance(test, ast.Name)
        case ast.Import() | ast.Pass() | ast.Global() | ast.Delete():
            return False
    return True


def comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip('#').strip()


def wrong_comments(source: str) -> list[str]:
    return [
        f'{line}: {text}' for line, text in comments(source) if TO_DO.search(text) or is_code(text)
    ]


def test_no_leftovers_in_comments():
    wrong = [
        f'{shown(path)}:{comment}'
        for path in sources('tractor', 'tests', 'examples', 'benchmarks')
        if path != Path(__file__).resolve()
        for comment in wrong_comments(path.read_text(encoding='utf-8'))
    ]
    assert not wrong, '\n'.join(['commented-out code or a note to do something later:', *wrong])


# --- waiting in tests


def sleep_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield calls of `time.sleep()` and of an event loop's `sleep()` with a positive literal."""
    names = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == 'sleep'
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in names:
                module = names[name]
            case ast.Attribute(value=ast.Name(id=name), attr='sleep'):
                module = name
            case _:
                continue
        if module == 'time' or (module in ('trio', 'asyncio') and waits(node)):
            yield node


def waits(call: ast.Call) -> bool:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(
        isinstance(v, ast.Constant) and isinstance(v.value, int | float) and v.value > 0
        for v in values
    )


def wrong_sleeps(source: str) -> list[int]:
    tree = ast.parse(source)
    lines = source.splitlines()
    excused = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for _name, node in functions(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(mark in text_of(node, lines) for mark in (STUCK_MARK, *VIRTUAL_TIME))
    ]
    return [call.lineno for call in sleep_calls(tree) if not any(call.lineno in r for r in excused)]


def text_of(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    # with a comment right above it
    return '\n'.join(lines[max(0, node.lineno - 2) : node.end_lineno])


def test_tests_do_not_sleep():
    wrong = [
        f'{shown(path)}:{line}'
        for path in sources('tests')
        for line in wrong_sleeps(path.read_text(encoding='utf-8'))
    ]
    assert not wrong, (
        f'wait for the event instead, or mark the function {STUCK_MARK!r} '
        f'(or {VIRTUAL_TIME[-1]!r}): {wrong}'
    )


# --- the checks themselves


@pytest.mark.parametrize(
    ('comment', 'found'),
    [
        ('x = 1', True),
        ('await chan.send(msg)', True),
        ('return None, err', True),
        ('for x in range(3):', True),
        ('TODO: later', True),
        ('return early', False),
        ('note: this one', False),
        ('a word', False),
        ('word', False),
        ('`close()` is idempotent', False),
    ],
)
def test_leftovers_are_found(comment, found):
    assert bool(wrong_comments(f'# {comment}\n')) is found


@pytest.mark.parametrize(
    ('body', 'found'),
    [
        ('time.sleep(n)', True),
        ('trio.sleep(0.1)', True),
        ('trio.sleep(seconds=1)', True),
        ('trio.sleep(0)', False),
        ('trio.sleep(delay)', False),
        ('trio.sleep_forever()', False),
        ('time.sleep(9)  # stuck on purpose', False),
        ('trio.sleep(9)  # virtual time', False),
    ],
)
def test_sleeps_are_found(body, found):
    assert bool(wrong_sleeps(f'def f():\n    {body}\n')) is found


def test_renamed_sleep_is_found():
    assert wrong_sleeps('from trio import sleep as nap\nnap(1)\n') == [2]


def test_body_lines_leave_the_docstring_out():
    (function,) = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    y = 2').body
    assert body_lines(function) == 2
