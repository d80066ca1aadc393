"""end to end: the helpers of the spawn core that applications call by name."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

import tractor
from tractor._testing import run_bounded, tractor_test
from tractor.spawn import _spawn

pytestmark = pytest.mark.spawns


async def give(value: int) -> int:
    """Return it."""
    return value


async def fail() -> None:
    """Raise."""
    raise ValueError('told to')


@tractor_test
async def test_a_result_or_an_error_as_a_value(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    errors: dict[tuple[str, str], BaseException] = {}
    # the one-shot's error leaves the block as it always does; here it is looked at before
    with pytest.raises(tractor.RemoteActorError) as caught:
        async with tractor.open_nursery() as an:
            good = await an.run_in_actor(give, value=7)
            bad = await an.run_in_actor(fail)
            subactors = {child.portal: child.subactor for child in an._children.values()}
            assert await _spawn.exhaust_portal(good, subactors[good]) == 7
            error = await _spawn.exhaust_portal(bad, subactors[bad])
            assert isinstance(error, tractor.RemoteActorError)
            assert error.boxed_type is ValueError
            await _spawn.cancel_on_completion(good, subactors[good], errors)
            assert errors == {}
            await _spawn.cancel_on_completion(bad, subactors[bad], errors)
            assert errors == {subactors[bad].aid.uid: error}
    assert caught.value is error


def test_the_end_of_a_multiprocessing_process() -> None:
    async def main() -> None:
        proc = multiprocessing.get_context('spawn').Process(target=int)
        proc.start()
        await _spawn.proc_waiter(proc)
        proc.join()
        assert proc.exitcode == 0
        proc.close()

    run_bounded(main)
