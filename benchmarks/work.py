"""What processes and interpreters of the standard library do in `others.py`; they import nothing else."""

from __future__ import annotations

from typing import Any


def same(value: Any) -> Any:
    """The cheapest call there is."""
    return value


def burn(count: int) -> int:
    """Count down: work for one core."""
    while count:
        count -= 1
    return count


def import_both() -> bool:
    """Have what every actor has."""
    import msgspec
    import trio

    return bool(msgspec and trio)


def serve(connection: Any) -> None:
    """Send back whatever comes through a pipe; None is the end."""
    while (item := connection.recv()) is not None:
        connection.send(item)


def serve_queues(requests: Any, answers: Any) -> None:
    """The same with two queues."""
    while (item := requests.get()) is not None:
        answers.put(item)


def emit(connection: Any, size: int, count: int) -> None:
    """Send `count` times so many bytes through a pipe, and wait until they were received."""
    item = b'x' * size
    for _ in range(count):
        connection.send(item)
    connection.recv()


def emit_to_queue(answers: Any, size: int, count: int) -> None:
    """The same with a queue."""
    item = b'x' * size
    for _ in range(count):
        answers.put(item)


def stay(connection: Any) -> None:
    """Import both, answer a call, and stay until told to end."""
    import_both()
    connection.send(same(True))
    connection.recv()


def spin() -> None:
    """Never yields."""
    while True:
        pass
