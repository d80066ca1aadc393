"""contract: leaks of actors that are sub-interpreters of this process."""

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from tractor._testing import _leaks

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason='interpreters are public from 3.14 on'
)


@pytest.fixture
def before(tmp_path):
    return _leaks.Snapshot.take('no such session', tmp_path)


@pytest.fixture
def actor():
    """A thread, an interpreter and a descriptor, as an actor has them."""
    from concurrent import interpreters

    release = threading.Event()
    thread = threading.Thread(target=release.wait, name='tractor subint one')
    interp = interpreters.create()
    ends = os.pipe()
    thread.start()
    yield SimpleNamespace(thread=thread, interp_id=interp.id, _fds=list(ends))
    release.set()
    thread.join()
    interp.close()
    for end in ends:
        os.close(end)


def test_thread_interpreter_and_descriptors_of_an_actor_are_leaks(before, actor):
    leaks = _leaks.find(before)
    assert leaks.threads == [actor.thread]
    assert leaks.interpreters == [actor.interp_id]
    assert set(leaks.fds) == set(actor._fds)
    assert leaks.may_still_end
    lines = list(leaks.describe())
    assert lines[0].startswith("thread 'tractor subint one'")
    assert f'interpreter {actor.interp_id}' in lines


def test_spare_of_a_runtime_that_is_up_is_no_leak(before, actor, monkeypatch):
    kept = [actor]
    spares = SimpleNamespace(drivers=lambda: tuple(kept))
    monkeypatch.setitem(sys.modules, 'tractor.spawn._subint_spares', spares)
    assert not _leaks.find(before)
    kept.clear()
    assert _leaks.find(before)


def test_main_interpreter_is_none(before, monkeypatch):
    from concurrent import interpreters

    assert _leaks._interpreters() == set()
    monkeypatch.delitem(sys.modules, 'concurrent.interpreters')
    assert _leaks._interpreters() == set()
    assert interpreters.get_main().id not in _leaks.find(before).interpreters


def test_interpreter_that_ends_in_time_is_waited_for(before, tmp_path):
    from concurrent import interpreters

    interp = interpreters.create()
    looked = threading.Event()
    find = _leaks.find

    def end() -> None:
        looked.wait()
        interp.close()

    thread = threading.Thread(target=end)
    thread.start()

    def find_and_tell(snapshot):
        leaks = find(snapshot)
        looked.set()
        return leaks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_leaks, 'find', find_and_tell)
        assert not _leaks.settle(before, grace=30)
    thread.join()


def test_real_spares_have_what_is_looked_at():
    spares = pytest.importorskip('tractor.spawn._subint_spares')
    driver = pytest.importorskip('tractor.spawn._subint_driver')
    assert spares.drivers() == ()
    assert {'thread', 'interp_id', '_fds'} <= set(driver.Driver.__init__.__code__.co_names)
