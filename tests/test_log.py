"""contract: log levels, guards, record context and logger names."""

import logging
import types
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import currentframe

import pytest
import trio

from tractor import log as tlog
from tractor.log import StackLevelAdapter, get_logger

LEVELS = {'TRANSPORT': 5, 'RUNTIME': 15, 'DEVX': 17, 'IO': 21, 'CANCEL': 22, 'PDB': 500}


class Records(logging.Handler):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def recording(logger: logging.Logger, level: int = 1) -> Iterator[list[logging.LogRecord]]:
    handler = Records()
    previous = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous)


@pytest.fixture
def log() -> Iterator[StackLevelAdapter]:
    """An adapter of a logger that no other test uses."""
    logger = logging.Logger('isolated', level=1)
    yield StackLevelAdapter(logger, tlog.ActorContextInfo())


@pytest.fixture
def level_foo() -> Iterator[str]:
    yield 'FOO'
    tlog.CUSTOM_LEVELS.pop('FOO', None)
    tlog.STD_PALETTE.pop('FOO', None)
    tlog.BOLD_PALETTE['bold'].pop('FOO', None)
    if hasattr(StackLevelAdapter, 'foo'):
        delattr(StackLevelAdapter, 'foo')


def run_as(source: str, **module_globals: object) -> dict:
    """Run `source` as the body of a module with these globals."""
    namespace = {'get_logger': get_logger, **module_globals}
    exec(source, namespace)
    return namespace


# ------ levels ------


def test_custom_levels_and_palette():
    assert {name: tlog.CUSTOM_LEVELS[name] for name in LEVELS} == LEVELS
    assert len(tlog.CUSTOM_LEVELS) == 6
    assert all(logging.getLevelName(value) == name for name, value in LEVELS.items())
    assert tlog.STD_PALETTE == {
        'CRITICAL': 'red',
        'ERROR': 'red',
        'WARNING': 'yellow',
        'CANCEL': 'yellow',
        'INFO': 'green',
        'DEVX': 'cyan',
        'TRANSPORT': 'cyan',
        'PDB': 'white',
        'RUNTIME': 'white',
        'DEBUG': 'white',
        'IO': 'purple',
    }
    assert {'bold': {k: f'bold_{v}' for k, v in tlog.STD_PALETTE.items()}} == tlog.BOLD_PALETTE


@pytest.mark.parametrize('name', [*LEVELS, 'DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'])
def test_level_method_reports_level_message_and_caller(log, name):
    method = getattr(log, name.lower())
    with recording(log.logger) as records:
        method('%s is %d', 'x', 3)
        line = currentframe().f_lineno - 1

    [record] = records
    assert record.levelname == name
    assert record.getMessage() == 'x is 3'
    assert (record.filename, record.lineno) == ('test_log.py', line)
    assert record.funcName == 'test_level_method_reports_level_message_and_caller'


@pytest.mark.parametrize('level', [5, 20, 22, 500])
def test_log_with_a_level_reports_caller(log, level):
    with recording(log.logger) as records:
        log.log(level, 'm')
        line = currentframe().f_lineno - 1

    [record] = records
    assert (record.levelno, record.filename, record.lineno) == (level, 'test_log.py', line)


@pytest.mark.parametrize('name', ['cancel', 'info'])
def test_stacklevel_of_the_caller_is_kept(log, name):
    def helper() -> None:
        getattr(log, name)('m', stacklevel=2)

    with recording(log.logger) as records:
        helper()
        line = currentframe().f_lineno - 1

    assert (records[0].lineno, records[0].funcName) == (
        line,
        'test_stacklevel_of_the_caller_is_kept',
    )


def test_extra_of_the_caller_is_merged(log):
    with recording(log.logger) as records:
        log.devx('m', extra={'peer': 'bob', 'task': 'mine'})

    assert records[0].peer == 'bob'
    assert records[0].task == 'mine'
    assert records[0].actor_name == 'no actor_name context'


def test_suppressed_message_is_never_formatted(log):
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError('formatted')

    with recording(log.logger, level=logging.INFO) as records:
        log.runtime('%s', Unprintable())
        log.debug('%s', Unprintable())

    assert records == []


def test_add_log_level_refreshes_value_and_colour(log, level_foo):
    tlog.add_log_level('foo', 23, 'green')
    method = StackLevelAdapter.foo
    tlog.add_log_level('FOO', 24, 'blue')

    assert StackLevelAdapter.foo is method
    assert tlog.CUSTOM_LEVELS['FOO'] == 24
    assert tlog.STD_PALETTE['FOO'] == 'blue'
    assert tlog.BOLD_PALETTE['bold']['FOO'] == 'bold_blue'
    with recording(log.logger) as records:
        log.foo('m')
    assert (records[0].levelno, records[0].levelname) == (24, 'FOO')


def test_deleted_level_leaves_the_module_usable(log, level_foo):
    tlog.add_log_level('FOO', 23)
    del tlog.CUSTOM_LEVELS['FOO']
    del StackLevelAdapter.foo

    assert not hasattr(get_logger(), 'foo')
    tlog.add_log_level('FOO', 25)
    with recording(log.logger) as records:
        log.foo('m')
    assert records[0].levelno == 25


def test_level_put_in_by_hand_has_a_method(level_foo):
    tlog.CUSTOM_LEVELS['FOO'] = 26
    assert callable(get_logger().foo)
    assert logging.getLevelName(26) == 'FOO'


@pytest.mark.parametrize('name', ['log', 'name', 'info', 'process', 'level'])
def test_add_log_level_never_replaces_other_attributes(name):
    before = getattr(StackLevelAdapter, name)
    with pytest.raises(ValueError, match='pick another name'):
        tlog.add_log_level(name, 27)
    assert getattr(StackLevelAdapter, name) is before
    assert name.upper() not in tlog.CUSTOM_LEVELS


# ------ guards ------


@pytest.mark.parametrize(
    ('own', 'asked', 'enabled'),
    [
        ('cancel', 'info', False),
        ('cancel', 'io', False),
        ('cancel', 'cancel', True),
        ('cancel', 'CANCEL', True),
        ('cancel', 'warning', True),
        ('cancel', 21, False),
        ('cancel', 22, True),
        ('transport', 'transport', True),
        ('debug', 'transport', False),
    ],
)
def test_at_least_level(log, own, asked, enabled):
    log.setLevel(own.upper())
    assert log.level == own
    assert log.at_least_level(asked) is enabled
    assert tlog.at_least_level(log, asked) is enabled
    assert tlog.at_least_level(log.logger, asked) is enabled


def test_at_least_level_honours_disabled_and_logging_disable():
    log = get_logger('guarded')
    with recording(log.logger):
        assert log.at_least_level('error')
        log.logger.disabled = True
        assert not log.at_least_level('error')
        log.logger.disabled = False
        logging.disable(logging.CRITICAL)
        try:
            assert not log.at_least_level('error')
            assert log.at_least_level('pdb')
        finally:
            logging.disable(logging.NOTSET)
        assert log.at_least_level('error')


def test_at_least_level_rejects_unknown_names(log):
    with pytest.raises(ValueError, match=r"Unknown log level 'loud'.*'TRANSPORT'"):
        log.at_least_level('loud')


# ------ record context ------


@pytest.fixture
def actor_source() -> Iterator[dict]:
    """Let a test set what the current actor is."""
    previous = tlog._sources['actor']
    current: dict = {'actor': None}
    tlog.set_actor_source(lambda: current['actor'])
    yield current
    tlog.set_actor_source(previous)


def test_context_without_actor_and_task(actor_source):
    assert dict(tlog.ActorContextInfo()) == {
        'task': 'no task context',
        'actor': None,
        'actor_name': 'no actor_name context',
        'actor_uid': 'no actor_uid context',
    }
    with pytest.raises(KeyError):
        tlog.ActorContextInfo()['colour']


def test_context_when_the_source_raises(actor_source):
    def no_runtime() -> None:
        raise RuntimeError('no runtime')

    tlog.set_actor_source(no_runtime)
    info = tlog.ActorContextInfo()
    assert info['actor'] is None
    assert info['actor_uid'] == 'no actor_uid context'


def test_context_in_a_task_of_an_actor(log, actor_source):
    aid = types.SimpleNamespace(name='bob', uuid='0123456789')
    actor_source['actor'] = actor = types.SimpleNamespace(aid=aid)

    async def main() -> tuple[str, str]:
        task = trio.lowlevel.current_task()
        log.info('m')
        assert tlog.pformat_task_uid('head') == f'{task.name}[{str(id(task))[:6]}]'
        with pytest.raises(ValueError, match="'tail' or 'head'"):
            tlog.pformat_task_uid('middle')
        return f'{task.name}[{str(id(task))[-6:]}]', tlog.pformat_task_uid()

    with recording(log.logger) as records:
        expected, formatted = trio.run(main)

    [record] = records
    assert formatted == expected
    assert record.task == expected
    assert record.actor is actor
    assert (record.actor_name, record.actor_uid) == ('bob', '012345')


# ------ logger names ------


@pytest.mark.parametrize(
    ('call', 'module', 'expected'),
    [
        ("pkg_name='snakelib'", ('snakelib', 'snakelib', True), 'snakelib'),
        ("pkg_name='snakelib'", ('snakelib', 'snakelib.mod', False), 'snakelib'),
        (
            "pkg_name='snakelib'",
            ('snakelib.subpkg', 'snakelib.subpkg', True),
            'snakelib.subpkg',
        ),
        (
            "pkg_name='snakelib'",
            ('snakelib.subpkg', 'snakelib.subpkg.submod', False),
            'snakelib.subpkg',
        ),
        ('', ('tractor.devx.debug', 'tractor.devx.debug._repl', False), 'tractor.devx.debug'),
        ('', ('tractor', 'tractor._root', False), 'tractor'),
        ('', ('tests', 'tests.test_x', False), 'tractor.tests'),
        ('', ('my_tractor_app', 'my_tractor_app.mod', False), 'tractor.my_tractor_app'),
        ('', ('tractor_app', 'tractor_app.mod', False), 'tractor.tractor_app'),
        ("pkg_name='p'", ('p', 'not_in_sys_modules', False), 'p'),
        ('', (None, '__main__', False), 'tractor'),
        ('', ('', '__main__', False), 'tractor'),
        ('__name__', (None, '__main__', False), 'tractor.__main__'),
        ('mk_sublog=False', ('tractor.ipc', 'tractor.ipc._chan', False), 'tractor'),
        ("name='tractor'", ('tractor.ipc', 'tractor.ipc._chan', False), 'tractor'),
        ("name='x.y'", ('tractor.ipc', 'tractor.ipc._chan', False), 'tractor.x.y'),
        ("name='_chan'", ('tractor.ipc', 'tractor.ipc._chan', False), 'tractor._chan'),
        ("name='ipc._chan'", ('tractor.ipc', 'tractor.ipc._chan', False), 'tractor.ipc'),
        ('__name__', ('tractor.ipc', 'tractor.ipc._chan', False), 'tractor.ipc'),
        ('__name__', ('tractor.ipc', 'tractor.ipc', True), 'tractor.ipc'),
        ('__name__', ('tractor', 'tractor._root', False), 'tractor'),
        ("subsys_spec='devx.debug'", ('tests', 'tests.test_x', False), 'tractor.devx.debug'),
    ],
)
def test_logger_names(call, module, expected):
    package, name, is_package = module
    module_globals = {'__package__': package, '__name__': name}
    if is_package:
        module_globals['__path__'] = []
    log = run_as(f'log = get_logger({call})', **module_globals)['log']
    assert log.name == log.logger.name == expected
    assert log.logger is logging.getLogger(expected)


def test_name_of_another_packages_module_is_kept_with_a_warning():
    with recording(logging.getLogger('pylib')) as records:
        log = get_logger(pkg_name='pylib', name='pylib.subpkg.mod')

    assert log.name == 'pylib.subpkg.mod'
    [record] = records
    assert record.levelname == 'WARNING'
    assert "use name='subpkg.mod' instead of 'pylib.subpkg.mod'" in record.getMessage()


@pytest.mark.parametrize(('strict', 'warnings'), [(False, 0), (True, 1)])
def test_own_module_name_warns_if_strict_only(strict, warnings):
    with recording(logging.getLogger('pylib')) as records:
        namespace = run_as(
            f"log = get_logger(__name__, pkg_name='pylib', _strict_debug={strict})",
            __package__='pylib.sub',
            __name__='pylib.sub.mod',
        )
    assert namespace['log'].name == 'pylib.sub'
    assert len(records) == warnings


def test_names_are_from_the_calling_module():
    assert get_logger().name == 'tractor' + (f'.{__package__}' if __package__ else '')


def test_given_logger_is_the_root():
    root = logging.getLogger('pylib')
    assert get_logger(logger=root).logger is root
    assert get_logger(logger=get_logger(logger=root)).logger is root
    assert get_logger('a.b', logger=root).name == 'pylib.a.b'


def test_root_name_is_deprecated():
    with pytest.warns(DeprecationWarning, match='`pkg_name`') as caught:
        log = get_logger(_root_name='pylib', name='sub')
    assert log.name == 'pylib.sub'
    assert caught[0].filename == __file__
