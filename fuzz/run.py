"""
Fuzz the targets: `python fuzz/run.py [--seconds N] [--target NAME]..`.

Each target gets its share of the time in a process of its own, two of them at a time. A target is stopped at its
first finding: an input that raises, takes too long or too much memory. The input is kept in `fuzz/findings/`, and
`--reproduce FILE --target NAME` runs it again, by itself. The memory and the open files of each process may not grow
between the first fifth of its time and the end. Exits with 1 if there is any finding.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FINDINGS = ROOT / 'fuzz' / 'findings'
sys.path.insert(0, str(ROOT))

AT_ONCE = 2

# one input may take so many seconds, and be so long (bytes)
INPUT_SECONDS = 20
INPUT_SIZE = 4096

# memory of one process (MiB), which a frame of 1 GiB would exceed
MEMORY = 900

# What a process may grow by between a fifth of its time and its end. The fuzzer keeps every input that reached new
# code and says about it, some MiB in all; something that leaks 100 bytes an input exceeds this within a minute.
# Files: one input opens up to 11 at a time.
GROWTH_MIB, GROWTH_FACTOR = 24, 1.10
GROWTH_FILES = 16

# shorter runs end before the caches are warm: their growth says nothing
MIN_SECONDS_FOR_GROWTH = 30

# Large blocks go back to the system once they are free (bytes): what is left then is what somebody still holds.
MALLOC = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '131072'}

# seconds between two looks at a process, and until one that should have ended is killed
LOOK, GRACE = 0.5, 60

# how many looks count at a time
LOOKS = 10

# of msgpack and of this protocol, for mutations that know them
WORDS = (
    '\\x80',
    '\\x90',
    '\\xc0',
    '\\xc1',
    '\\xd9',
    '\\xdc',
    '\\xde',
    '\\xa8msg_type',
    '\\xa3cid',
    '\\xa3pld',
    '\\xa2c0',
    '\\xa2c1',
    '\\xa5Yield',
    '\\xa5Error',
    '\\xa5Start',
    '\\xa6Return',
    'AuTr\\x01',
    '/ip4/127.0.0.1/tcp/1',
    '/unix/',
)


@dataclass
class Result:
    """What became of one target."""

    name: str
    seconds: float = 0
    inputs: int = 0
    coverage: int = 0
    # MiB and open files, at a fifth of the time and at the end
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


class Watch:
    """
    Looks at a running process: its memory and open files after a fifth of the time, and at the end.

    Args:
        pid: the process.
        log: what it writes; says when it has read what it starts from.
        seconds: how long it will run.
    """

    def __init__(self, pid: int, log: Path, seconds: float) -> None:
        self._proc = Path('/proc', str(pid))
        self._log = log
        self._seconds = seconds
        self._fifth = math.inf
        self._seen: deque[tuple[float, int]] = deque(maxlen=LOOKS)
        self.early: tuple[float, int] | None = None

    def look(self) -> None:
        """Take one reading; none where the system has no `/proc`, or the process is gone."""
        if self._fifth == math.inf:
            if b'INITED' not in self._log.read_bytes():
                return
            self._fifth = time.monotonic() + self._seconds / 5
        try:
            pages = int(Path(self._proc, 'statm').read_text().split()[1])
            files = len(os.listdir(self._proc / 'fd'))
        except (OSError, IndexError):
            return
        if pages:
            self._seen.append((pages * os.sysconf('SC_PAGE_SIZE') / (1 << 20), files))
        if self.early is None and time.monotonic() >= self._fifth:
            self.early = self._least()

    def _least(self) -> tuple[float, int] | None:
        """What every one of the last readings has, so not what one input takes for itself."""
        if not self._seen:
            return None
        return min(memory for memory, _ in self._seen), min(files for _, files in self._seen)

    def report(self, result: Result) -> None:
        """Enter the readings, and growth as a finding."""
        late = self._least()
        if self.early is None or late is None:
            return
        result.memory, result.files = [self.early[0], late[0]], [self.early[1], late[1]]
        if self._seconds < MIN_SECONDS_FOR_GROWTH:
            return
        before, after = result.memory
        if after > before * GROWTH_FACTOR + GROWTH_MIB:
            result.findings.append(f'memory grew from {before:.0f} to {after:.0f} MiB')
        if result.files[1] > result.files[0] + GROWTH_FILES:
            result.findings.append(f'open files grew from {result.files[0]} to {result.files[1]}')


def fuzz(name: str, seeds: list[bytes], seconds: float, seed: int) -> Result:
    """Run one target in a process of its own."""
    result = Result(name)
    prefix = FINDINGS / f'{name}-'
    with tempfile.TemporaryDirectory(prefix=f'fuzz-{name}-') as work:
        corpus = Path(work, 'corpus')
        corpus.mkdir()
        for number, data in enumerate(seeds):
            Path(corpus, f'seed-{number}').write_bytes(data)
        words = Path(work, 'words')
        words.write_text(''.join(f'"{word}"\n' for word in WORDS))
        args = [
            f'-max_total_time={math.ceil(seconds)}',
            f'-timeout={INPUT_SECONDS}',
            f'-rss_limit_mb={MEMORY}',
            f'-max_len={INPUT_SIZE}',
            f'-seed={seed}',
            f'-artifact_prefix={prefix}',
            f'-dict={words}',
            '-print_final_stats=1',
            str(corpus),
        ]
        log = FINDINGS / f'{name}.log'
        _run_worker(name, args, log, seconds, result)
    return result


def _environment(work: str) -> dict[str, str]:
    env = {**os.environ, **MALLOC, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path[1:]])}
    # what looks for the runtime directory is to find its own
    env['XDG_RUNTIME_DIR'] = work
    return env


def _run_worker(name: str, args: list[str], log: Path, seconds: float, result: Result) -> None:
    start = time.monotonic()
    with log.open('wb') as out:
        process = subprocess.Popen(
            [sys.executable, '-m', 'fuzz._worker', name, *args],
            cwd=ROOT,
            env=_environment(os.path.dirname(args[-1])),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        watch = Watch(process.pid, log, seconds)
        try:
            while process.poll() is None:
                watch.look()
                if time.monotonic() > start + seconds + INPUT_SECONDS + GRACE:
                    result.findings.append('did not end by itself')
                    break
                threading.Event().wait(LOOK)
        finally:
            process.kill()
            code = process.wait()
    result.seconds = time.monotonic() - start
    _read_log(log, result)
    if code and not result.findings:
        result.findings.append(f'exit code {code}, see {log.relative_to(ROOT)}')
    watch.report(result)
    if not result.findings:
        log.unlink()


def _read_log(log: Path, result: Result) -> None:
    for line in log.read_text(errors='replace').splitlines():
        words = line.split()
        if line.startswith('#') and 'cov:' in words:
            result.coverage = int(words[words.index('cov:') + 1])
        elif line.startswith('stat::number_of_executed_units:'):
            result.inputs = int(words[-1])
        elif 'Test unit written to' in line:
            kept = Path(words[-1])
            result.findings.append(f'{kept.name.removeprefix(result.name + "-")[:20]}: {kept}')


def reproduce(name: str, path: Path) -> int:
    """Run one input by itself; what it raises is shown."""
    from fuzz import targets

    targets.load(name).one_input(path.read_bytes())
    print(f'{name}: nothing wrong with {path}')
    return 0


def print_table(results: list[Result]) -> None:
    """One line a target."""
    head = (
        'target',
        'seconds',
        'inputs',
        'per s',
        'code',
        'MiB at 20 %',
        'at 100 %',
        'files',
        'findings',
    )
    rows = [head, *map(_row, results)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    for row in rows:
        cells = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print('  '.join(cells).rstrip())
    for result in results:
        for finding in result.findings:
            print(f'FINDING {result.name}: {finding}')


def _row(result: Result) -> tuple[str, ...]:
    early, late = (f'{mib:.0f}' for mib in result.memory) if result.memory else ('-', '-')
    return (
        result.name,
        f'{result.seconds:.0f}',
        str(result.inputs),
        f'{result.inputs / max(result.seconds, 1):.0f}',
        str(result.coverage),
        early,
        late,
        '-'.join(map(str, result.files)) or '-',
        str(len(result.findings)),
    )


def main() -> int:
    """Parse the arguments and fuzz; the exit code."""
    from fuzz import targets

    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--seconds', type=float, default=600, help='for all targets, two at a time')
    parser.add_argument('--target', action='append', choices=targets.NAMES, help='all by default')
    parser.add_argument('--seed', type=int, help='of the first mutations; a new one by default')
    parser.add_argument(
        '--reproduce', type=Path, metavar='FILE', help='run one input of one target'
    )
    args = parser.parse_args()
    names = args.target or list(targets.NAMES)
    if args.reproduce:
        if len(names) != 1:
            parser.error('--reproduce needs exactly one --target')
        return reproduce(names[0], args.reproduce)
    try:
        import atheris  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        parser.error('atheris is not installed here: use `make fuzz`, or install the group `fuzz`')
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), 'little') or 1
    FINDINGS.mkdir(exist_ok=True)
    share = args.seconds * min(AT_ONCE, len(names)) / len(names)
    print(f'{len(names)} targets, {share:.0f} s each, --seed {seed}', flush=True)
    # here, as two threads that import the same package may wait for each other
    seeds = {name: targets.load(name).seeds() for name in names}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda name: fuzz(name, seeds[name], share, seed), names))
    print_table(results)
    return int(any(result.findings for result in results))


if __name__ == '__main__':
    sys.exit(main())
