"""contract: the state of a linked pair: its transitions, what is an echo, and what leaves the block."""

import asyncio
import itertools

import pytest
import trio

from tractor._aio import _link
from tractor._aio._link import Link, State
from tractor._aio._queue import QueueShutDown
from tractor.to_asyncio import AsyncioCancelled, AsyncioTaskExited, TrioCancelled, TrioTaskExited


def cancelled():
    """A real `trio.Cancelled`, which only trio can make."""

    async def main():
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as err:
                caught.append(err)
                raise

    caught = []
    trio.run(main)
    return caught[0]


# --- states


@pytest.mark.parametrize(
    ('steps', 'state', 'runs', 'inside'),
    [
        ('', State.LINKED, True, True),
        ('r', State.ALONE, False, True),
        ('e', State.FAILED, False, True),
        ('l', State.LEAVING, True, False),
        ('rl', State.OVER, False, False),
        ('el', State.OVER, False, False),
        ('lr', State.OVER, False, False),
        ('le', State.OVER, False, False),
    ],
)
def test_states(steps, state, runs, inside):
    link = Link()
    for step in steps:
        match step:
            case 'r':
                link.ended(None, 1)
            case 'e':
                link.ended(ValueError())
            case 'l':
                link.left(None)
    assert (link.state, link.runs, link.inside) == (state, runs, inside)
    assert state.value in repr(link)


def test_every_other_step_is_refused():
    for state, event in itertools.product(State, _link.Event):
        if (state, event) not in _link.TRANSITIONS:
            link = Link()
            link.state = state
            with pytest.raises(KeyError):
                link._happens(event)


# --- the signal


def test_the_end_of_the_body_is_no_cancellation():
    link = Link()
    signal = link.left(None)
    assert type(signal) is TrioTaskExited
    assert signal.__cause__ is None


@pytest.mark.parametrize('body', [ValueError(), cancelled()], ids=['error', 'cancelled'])
def test_a_cancelled_or_failed_body_is_the_cause_of_the_signal(body):
    link = Link()
    signal = link.left(body)
    assert type(signal) is TrioCancelled
    assert isinstance(signal, TrioTaskExited)
    assert signal.__cause__ is body


@pytest.mark.parametrize('error', [None, ValueError()])
def test_no_signal_for_a_task_that_has_ended(error):
    link = Link()
    link.ended(error)
    assert link.left(None) is None


@pytest.mark.parametrize(('body', 'kind'), [(None, TrioTaskExited), (ValueError(), TrioCancelled)])
def test_a_signal_for_a_primitive_is_a_cancellation_too(body, kind):
    link = Link()
    signal = link.left(body)
    assert link.pending is signal
    alike = link.take_signal(careful=True)
    assert link.pending is None
    assert isinstance(alike, kind)
    assert isinstance(alike, asyncio.CancelledError)
    assert alike.args == signal.args
    assert alike.__cause__ is body
    link.ended(alike)
    assert link.failure is None


def test_a_signal_is_otherwise_no_cancellation():
    link = Link()
    signal = link.left(None)
    assert link.take_signal(careful=False) is signal
    assert not isinstance(signal, asyncio.CancelledError)


# --- echoes and failures


def echoes(signal):
    return [
        signal,
        asyncio.CancelledError(),
        QueueShutDown(),
        trio.BrokenResourceError(),
        trio.ClosedResourceError(),
        BaseExceptionGroup('', [signal, asyncio.CancelledError()]),
        BaseExceptionGroup('', [BaseExceptionGroup('', [signal]), asyncio.CancelledError()]),
    ]


@pytest.mark.parametrize('n', range(len(echoes(ValueError()))))
def test_an_echo_is_no_failure(n):
    link = Link()
    link.ended(echoes(link.left(None))[n])
    assert link.error is not None
    assert link.failure is None


@pytest.mark.parametrize('kind', [TrioTaskExited, TrioCancelled, ValueError, KeyboardInterrupt])
def test_another_error_after_the_signal_is_a_failure(kind):
    link = Link()
    link.left(None)
    error = kind('of its own')
    link.ended(error)
    assert link.failure is error


def test_a_group_is_freed_of_echoes():
    link = Link()
    signal = link.left(None)
    link.ended(BaseExceptionGroup('two', [signal, ValueError('mine')]))
    assert pytest.RaisesGroup(ValueError).matches(link.failure)


@pytest.mark.parametrize('kind', [trio.BrokenResourceError, QueueShutDown, TrioTaskExited])
def test_what_would_be_an_echo_is_a_failure_before_the_signal(kind):
    link = Link()
    error = kind()
    link.ended(error)
    assert link.failure is error


def test_a_cancellation_that_is_not_ours():
    link = Link()
    error = asyncio.CancelledError()
    link.ended(error)
    assert type(link.failure) is AsyncioCancelled
    assert link.failure.__cause__ is error
    assert link.ending() is link.failure is link.ending()


# --- the end of the channel


def test_endings():
    error = ValueError()
    for given, suppress, kind in (
        (None, True, trio.EndOfChannel),
        (None, False, AsyncioTaskExited),
        (error, True, ValueError),
        (error, False, ValueError),
    ):
        link = Link(suppress)
        link.ended(given)
        assert type(link.ending()) is kind


def test_the_ending_of_who_left():
    link = Link(suppress_graceful_exits=False)
    link.ended(link.left(None))
    assert type(link.ending()) is trio.EndOfChannel


# --- verdicts

OWN, FAILURE, CANCELLED = KeyError('own'), ValueError('failure'), cancelled()


def over(body, end, suppress=True):
    """A pair whose trio side left first, by `body`, and whose asyncio task then ended."""
    link = Link(suppress)
    signal = link.left(body)
    match end:
        case 'returned':
            link.ended(None)
        case 'echo':
            link.ended(signal)
        case 'failed':
            link.ended(FAILURE)
    return link


@pytest.mark.parametrize(
    ('body', 'end', 'leaves'),
    [
        (None, 'returned', None),
        (None, 'echo', None),
        (None, 'failed', FAILURE),
        (CANCELLED, 'returned', CANCELLED),
        (CANCELLED, 'echo', CANCELLED),
        (CANCELLED, 'failed', FAILURE),
        (OWN, 'returned', OWN),
        (OWN, 'echo', OWN),
        (OWN, 'failed', OWN),
    ],
)
@pytest.mark.parametrize('suppress', [True, False])
def test_verdicts(body, end, leaves, suppress):
    OWN.__cause__ = None
    link = over(body, end, suppress)
    if (body, end, suppress) == (None, 'echo', False):
        leaves = link.signal
    assert link.verdict(body) is leaves
    assert OWN.__cause__ is (FAILURE if body is OWN and end == 'failed' else None)
    assert FAILURE.__cause__ is None


@pytest.mark.parametrize('first', ['asyncio', 'trio'])
def test_the_order_of_the_ends_does_not_matter(first):
    OWN.__cause__ = None
    link = Link()
    if first == 'asyncio':
        link.ended(FAILURE)
        link.left(OWN)
    else:
        link.left(OWN)
        link.ended(FAILURE)
    assert link.verdict(OWN) is OWN
    assert OWN.__cause__ is FAILURE


def test_a_cause_is_kept():
    own, cause = KeyError('own'), OSError()
    own.__cause__ = cause
    link = over(own, 'failed')
    assert link.verdict(own) is own
    assert own.__cause__ is cause


@pytest.mark.parametrize('grouped', [0, 1, 2])
def test_the_failure_as_the_error_of_the_body_is_raised_bare(grouped):
    link = Link()
    failure = ValueError()
    link.ended(failure)
    body = failure
    for _ in range(grouped):
        body = BaseExceptionGroup('', [body, CANCELLED])
    link.left(body)
    assert link.verdict(body) is failure
    assert failure.__cause__ is None


def test_a_group_with_an_error_of_its_own_stays():
    link = Link()
    failure = ValueError()
    link.ended(failure)
    body = BaseExceptionGroup('', [KeyError(), failure])
    link.left(body)
    assert link.verdict(body) is body
    assert body.__cause__ is failure


def chain(error):
    """All that an error leads to, itself included; fails on a cycle."""
    todo, trail = [(error, ())], []
    while todo:
        one, before = todo.pop()
        if one is None:
            continue
        assert one not in before, 'a cycle'
        trail.append(one)
        todo += [(one.__cause__, (*before, one)), (one.__context__, (*before, one))]
    return trail


@pytest.mark.parametrize('how', ['context', 'cause'])
def test_a_failure_out_of_the_signal_makes_no_cycle(how):
    link = Link()
    own, failure = KeyError('own'), ValueError('while unwinding')
    setattr(failure, f'__{how}__', link.left(own))
    link.ended(failure)
    assert link.verdict(own) is own
    assert own.__cause__ is failure
    chain(own)


def test_a_failure_out_of_the_error_itself_makes_no_cycle():
    link = Link()
    own, failure = KeyError('own'), ValueError('while unwinding')
    link.left(own)
    failure.__cause__ = own
    link.ended(failure)
    assert link.verdict(own) is own
    assert own.__cause__ is None
    chain(own)
