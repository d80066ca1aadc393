"""
A program with an actor that cannot be ended, which reports what its caller sees and then ends as it is told.

    python abandon.py KIND HOW

KIND is of `subint_stuck_peers.UNKILLABLE`; HOW one of `return`, `exit`, `error`, `interrupt`. The report is a line of
JSON.
"""

import json
import logging
import os
import signal
import sys
from typing import Any

import subint_parent_peers as parent
import subint_stuck_peers as stuck
import trio

import tractor
from tractor._exceptions import ActorFailure
from tractor.spawn import _life, _subint

KIND, HOW = sys.argv[1:]

_life.KILL_WITHIN = 0.5
_subint.MAX_ABANDONED = 1

report: dict[str, Any] = {'critical': []}


class Critical(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.CRITICAL:
            report['critical'].append(record.getMessage())


async def abandon() -> None:
    with parent.telling() as told:
        async with (
            tractor.trionics.collapse_eg(),
            trio.open_nursery() as tn,
            tractor.open_nursery(**parent.options()) as an,
        ):
            portal = await an.start_actor('stuck', enable_modules=[stuck.__name__])
            report['proc'] = parent.child_of(an, portal).proc
            report['call'] = parent.Call(portal, stuck.UNKILLABLE[KIND][1], told=told.fd)
            report['chan'] = portal.chan
            tn.start_soon(report['call'].make)
            await told.wait()
            await an.cancel()


async def another() -> str:
    try:
        async with tractor.open_nursery(**parent.options()) as an:
            await an.start_actor('another')
    except ActorFailure as refusal:
        return str(refusal)
    return ''


async def main() -> None:
    began = trio.current_time()
    with trio.fail_after(parent.PATIENCE):
        try:
            await abandon()
        except ActorFailure as failure:
            report['failure'] = str(failure)
            report['notes'] = failure.__notes__
        report['took'] = trio.current_time() - began
        await report['call'].ended.wait()
        report['refusal'] = await another()
    call, chan, proc = (report.pop(name) for name in ('call', 'chan', 'proc'))
    report['caller'] = type(call.error).__name__
    report['connected'] = chan.connected()
    report['returncode'] = proc.returncode
    print(json.dumps(report), flush=True)


if __name__ == '__main__':
    logging.getLogger('tractor').addHandler(Critical())
    trio.run(main)
    # in a buffer until the very end
    print('the last words')
    if HOW == 'exit':
        sys.exit(3)
    if HOW == 'error':
        raise ValueError('as asked')
    if HOW == 'interrupt':
        os.kill(os.getpid(), signal.SIGINT)
