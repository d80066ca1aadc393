"""contract: console handlers and logging specs."""

import io
import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from inspect import currentframe

import pytest

from tractor import log as tlog
from tractor.log import get_console_log, get_logger


@pytest.fixture
def clean_loggers() -> Iterator[None]:
    """Take handlers, levels and propagation off the loggers that a test configured."""
    yield
    for name in ('pylib', 'pylib.sub', 'pylib.sub.deep'):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def replace_stderr(monkeypatch) -> io.StringIO:
    """Replace stderr from here on; pytest would undo that between a fixture and its test."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stream)
    return stream


def test_new_child_inherits_its_level(clean_loggers):
    child = get_logger('sub', pkg_name='pylib')
    assert child.logger.level == logging.NOTSET
    get_console_log('devx', name='pylib', pkg_name='pylib')
    assert child.level == 'devx'


@pytest.mark.parametrize('level', [None, '', 0])
def test_no_level_no_handler(clean_loggers, level):
    log = get_console_log(level, name='pylib', pkg_name='pylib')
    assert log.name == 'pylib'
    assert log.logger.handlers == []
    assert log.logger.level == logging.NOTSET


def test_console_log_adds_one_handler_per_stderr(clean_loggers, monkeypatch):
    stderr = replace_stderr(monkeypatch)
    log = get_console_log('cancel', name='pylib', pkg_name='pylib')
    assert get_console_log(15, logger=log) is log
    [handler] = log.logger.handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is stderr
    assert log.level == 'runtime'

    other = replace_stderr(monkeypatch)
    get_console_log('info', logger=log)
    assert [h.stream for h in log.logger.handlers] == [stderr, other]

    other.close()
    third = replace_stderr(monkeypatch)
    get_console_log('info', logger=log)
    assert [h.stream for h in log.logger.handlers] == [stderr, third]


def test_console_log_rejects_unknown_level(clean_loggers):
    with pytest.raises(ValueError, match="Unknown log level 'loud'"):
        get_console_log('loud', name='pylib', pkg_name='pylib')
    assert logging.getLogger('pylib').handlers == []


def test_console_log_names_the_calling_module(clean_loggers):
    namespace = {'__package__': 'pylib.sub', '__name__': 'pylib.sub.m', 'get': get_console_log}
    exec("log = get(pkg_name='pylib')", namespace)
    assert namespace['log'].name == 'pylib.sub'


def test_console_line(clean_loggers, monkeypatch):
    stderr = replace_stderr(monkeypatch)
    aid = types.SimpleNamespace(name='bob', uuid='0123456789')
    actor = types.SimpleNamespace(aid=aid)
    monkeypatch.setitem(tlog._sources, 'actor', lambda: actor)
    log = get_console_log('io', name='pylib', pkg_name='pylib')
    log.io('hello')
    line = currentframe().f_lineno - 1
    logging.getLogger('pylib.sub').critical('bare')

    first, second = stderr.getvalue().splitlines()
    assert f' [IO] pylib test_log_console.py:{line} hello' in first
    assert '(bob[012345], ' in first
    assert ', no task context)' in first
    assert '))' not in first
    assert second.endswith('bare')
    assert '(no actor_name context[no actor_uid context], ' in second
    assert '\x1b' not in stderr.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ('stream', 'env', 'coloured'),
    [
        (Terminal(), {}, True),
        (Terminal(), {'NO_COLOR': '1'}, False),
        (Terminal(), {'PYTHON_COLORS': '0'}, False),
        (Terminal(), {'PYTHON_COLORS': '0', 'FORCE_COLOR': '1'}, False),
        (Terminal(), {'TERM': 'dumb'}, False),
        (io.StringIO(), {'FORCE_COLOR': '1'}, False),
    ],
)
def test_colours(clean_loggers, monkeypatch, stream, env, coloured):
    for key in ('NO_COLOR', 'PYTHON_COLORS', 'FORCE_COLOR'):
        monkeypatch.delenv(key, raising=False)
    for key, value in {'TERM': 'xterm', **env}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, 'stderr', stream)

    get_console_log('info', name='pylib', pkg_name='pylib').cancel('hello')
    text = stream.getvalue()
    assert text.endswith('hello\x1b[0m\n' if coloured else 'hello\n')
    assert ('\x1b[33m' in text) is coloured


def test_get_loglevel_reads_the_module_global(monkeypatch):
    assert tlog.get_loglevel() == tlog._default_loglevel
    monkeypatch.setattr(tlog, '_default_loglevel', 'CANCEL')
    assert tlog.get_loglevel() == 'CANCEL'


def test_import_is_light_and_silent():
    code = (
        'import sys, logging, tractor.log as tlog;'
        'log = tlog.get_logger("x"); log.critical("lost");'
        'print("colorlog" in sys.modules);'
        'print([type(h).__name__ for h in logging.getLogger("tractor").handlers]);'
        'tlog.get_console_log("info", logger=log).critical("seen");'
        'print("colorlog" in sys.modules)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines() == ['False', "['NullHandler']", 'True']
    assert 'lost' not in done.stderr
    assert done.stderr.endswith('seen\n')


# ------ logging specs ------


@pytest.mark.parametrize(
    ('logspec', 'default', 'expected'),
    [
        (False, None, {}),
        (False, 'info', {}),
        (True, None, {None: 'cancel'}),
        (True, 'info', {None: 'info'}),
        ('info', None, {None: 'info'}),
        ('info', 'error', {None: 'info'}),
        ('devx:runtime,trionics:cancel', None, {'devx': 'runtime', 'trionics': 'cancel'}),
        ('devx.debug: PDB , ipc:info', None, {'devx.debug': 'PDB', 'ipc': 'info'}),
        ('tractors:info', None, {'tractors': 'info'}),
    ],
)
def test_parse_logspec(logspec, default, expected):
    assert tlog.parse_logspec(logspec, default) == expected


@pytest.mark.parametrize(
    ('logspec', 'match'),
    [
        ('info,devx:runtime', "Cannot read 'info'"),
        ('devx:runtime,', "Cannot read ''"),
        (':info', "Cannot read ':info'"),
        ('devx:', "Cannot read 'devx:'"),
        ('info,debug', "Unknown log level 'info,debug'"),
        ('devx:loud', "Unknown log level 'loud'"),
        ('tractor.devx:info', "leave it out of 'tractor.devx'"),
        ('tractor:info', "leave it out of 'tractor'"),
        (None, 'not None'),
        (20, 'not 20'),
    ],
)
def test_parse_logspec_rejects(logspec, match):
    with pytest.raises(ValueError, match=match):
        tlog.parse_logspec(logspec)


def test_apply_logspec_prints_each_line_once(clean_loggers, monkeypatch):
    stderr = replace_stderr(monkeypatch)
    primary, adapters = tlog.apply_logspec('info', pkg_name='pylib')
    assert primary == 'info'
    assert {name: log.name for name, log in adapters.items()} == {'pylib': 'pylib'}
    assert adapters['pylib'].logger.propagate

    primary, adapters = tlog.apply_logspec('sub:devx,sub.deep:transport', 'error', 'pylib')
    assert primary == 'error'
    assert list(adapters) == ['pylib.sub', 'pylib.sub.deep']
    assert [log.level for log in adapters.values()] == ['devx', 'transport']
    assert [log.logger.propagate for log in adapters.values()] == [False, False]

    adapters['pylib.sub'].devx('one')
    adapters['pylib.sub'].transport('unseen')
    adapters['pylib.sub.deep'].transport('two')
    assert [line.split()[-1] for line in stderr.getvalue().splitlines()] == ['one', 'two']


def test_apply_logspec_of_nothing():
    assert tlog.apply_logspec(False, 'info', 'pylib') == ('info', {})
    assert tlog.apply_logspec(False) == (None, {})
