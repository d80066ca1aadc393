"""Values and messages made of decisions: mostly of the right form, never reliably so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fuzz._choices import Choices
from tractor.msg.types import _msg_table

CIDS = ('c0', 'c1', 'c2', 'c3', 'nobody', '', 'c' * 300, '\0\u2028')
UIDS = (['peer', '2'], ['me', '1'], ['x', ''], ['', ''])
TEXTS = ('', 'x', 'a\nb', '\0', '\ud7ff\U0001f40d', '%s %d %(x)s {0} {', '<', '------ - ------')
ERR_NAMES = (
    'ValueError',
    'RemoteActorError',
    'ContextCancelled',
    'MsgTypeError',
    'StreamOverrun',
    'TransportClosed',
    'ExceptionGroup',
    'Cancelled',
    'KeyboardInterrupt',
    'SystemExit',
    'UnicodeDecodeError',
    'NoSuchError',
    'BdbQuit',
    'print',
    '__builtins__',
    '',
)

# how a decision about one field is split: right, anything, left out (of 256)
_RIGHT, _ANYTHING = 216, 244

Make = Callable[[Choices], Any]


def _text(c: Choices) -> str:
    how = c.byte()
    if how < 200:
        return c.pick(TEXTS)
    if how < 240:
        return c.blob()[:256].decode('utf-8', 'replace')
    return c.pick(TEXTS[1:]) * (1 << c.below(14))


def _number(c: Choices) -> int:
    how = c.below(4)
    if how == 0:
        return c.byte()
    if how == 1:
        return -c.byte()
    return c.number(8) - (1 << 63 if how == 2 else 0)


def _items(c: Choices, depth: int) -> list[Any]:
    return [value(c, depth - 1) for _ in range(c.below(5))]


def _mapping(c: Choices, depth: int) -> dict[Any, Any]:
    return {_key(c): value(c, depth - 1) for _ in range(c.below(5))}


def _key(c: Choices) -> Any:
    return c.pick(KEYS) if c.byte() < 240 else c.pick((1, None, 1.5, b'k', -1, True))


def _deep(c: Choices, _depth: int) -> Any:
    nested: Any = None
    wrap: Callable[[Any], Any] = (lambda v: [v]) if c.below(2) else (lambda v: {'a': v})
    for _ in range(min(1 << c.below(10), 500)):
        nested = wrap(nested)
    return nested


_LEAVES: tuple[Make, ...] = (
    lambda _c: None,
    lambda c: c.byte() < 128,
    _number,
    _text,
    lambda c: c.number(8) / 7,
    lambda c: c.pick((float('nan'), float('inf'), -0.0, 1e308)),
    lambda c: c.blob()[:256],
    lambda c: msgspec.msgpack.Ext(c.byte() - 128, c.blob()[:32]),
    lambda c: list(c.pick(UIDS)),
    lambda c: c.pick(CIDS),
)
_BRANCHES: tuple[Callable[[Choices, int], Any], ...] = (_items, _mapping, _deep)


def value(c: Choices, depth: int = 3) -> Any:
    """Any value that msgpack can hold."""
    kind = c.below(len(_LEAVES) + (len(_BRANCHES) if depth > 0 else 0))
    if kind < len(_LEAVES):
        return _LEAVES[kind](c)
    return _BRANCHES[kind - len(_LEAVES)](c, depth)


def _uid(c: Choices) -> Any:
    return list(c.pick(UIDS))


def _maybe(make: Make) -> Make:
    return lambda c: make(c) if c.byte() >= 128 else None


def _hops(c: Choices) -> list[Any]:
    hops = [_uid(c) for _ in range(c.below(4))]
    return hops * (1 << c.below(8)) if c.byte() >= 240 else hops


def _nested(c: Choices) -> Any:
    return fields(c, c.pick(('Yield', 'Started', 'Return', 'Start')), depth=1)


def _pairs(c: Choices) -> list[Any]:
    options: tuple[Any, ...] = (['127.0.0.1', 0], ['/tmp', 'x.sock'], ['x', 1], ['', ''])
    return [c.pick(options) for _ in range(c.below(3))]


def _vars(c: Choices) -> dict[Any, Any]:
    rtvars = {'_is_root': False, '_enable_tpts': ['uds'], '_debug_mode': False}
    return rtvars if c.byte() < 200 else {**rtvars, **_mapping(c, 2)}


# the functions which the actor under test serves, see `fuzz._served`
FUNCS = (
    'echo',
    'fail',
    'numbers',
    'talk',
    'answer_all',
    'hang',
    'not_async',
    'no_such',
    'cancel',
    '_cancel_task',
    '_stream_room',
    'stream_some',
    'typed',
    '__doc__',
)
NAMESPACES = ('fuzz._served', 'self', 'os', '')


def _kwargs(c: Choices) -> Any:
    how = c.below(6)
    if how == 0:
        return {}
    if how == 1:
        return {'cid': c.pick(CIDS)}
    if how == 2:
        return {'value': value(c, 2)}
    if how == 3:
        return {'n': c.byte()}
    return {c.pick(KEYS): value(c, 2)}


KEYS = ('cid', 'value', 'n', 'pld', 'self', 'msg_type', 'req_chan', 'ctx', '_bad_msg', 'name', 'x')

_FIELDS: dict[str, Make] = {
    'cid': lambda c: c.pick(CIDS),
    'pld': lambda c: value(c, 3),
    'name': _text,
    'uuid': _text,
    'pid': _maybe(_number),
    'is_registrar': _maybe(lambda c: c.byte() < 128),
    'is_probe': lambda c: c.byte() >= 200,
    '_parent_main_data': lambda _c: {},
    '_runtime_vars': _vars,
    'enable_modules': lambda _c: {},
    'reg_addrs': _pairs,
    'bind_addrs': _maybe(_pairs),
    'ns': lambda c: c.pick(NAMESPACES),
    'func': lambda c: c.pick(FUNCS),
    'kwargs': _kwargs,
    'uid': lambda _c: ['peer', '2'],
    'pld_spec': _text,
    'functype': lambda c: c.pick(('context', 'asyncfunc', 'asyncgen', 'none')),
    'src_uid': _uid,
    'src_type_str': lambda c: c.pick(ERR_NAMES),
    'boxed_type_str': lambda c: c.pick(ERR_NAMES),
    'relay_path': _hops,
    'message': _maybe(_text),
    'tb_str': _text,
    'canceller': _maybe(_uid),
    'sender': _maybe(_uid),
    '_bad_msg': _maybe(_nested),
    '_bad_msg_as_dict': _maybe(_nested),
}
# an `Error` of the connection as a whole ends it: that is to be the exception
_ERROR_FIELDS = {'cid': lambda c: None if c.byte() >= 250 else c.pick(CIDS)}

NAMES = tuple(_msg_table)


def fields(c: Choices, name: str, depth: int = 3) -> dict[Any, Any]:
    """A message as a map: its tag, then its fields, each one right, wrong or left out."""
    made: dict[Any, Any] = {'msg_type': name}
    for field in _msg_table[name].__struct_fields__:
        how = c.byte()
        if how >= _ANYTHING:
            continue
        make = _FIELDS[field]
        if name == 'Error':
            make = _ERROR_FIELDS.get(field, make)
        made[field] = make(c) if how < _RIGHT and depth else value(c, depth)
    if c.byte() >= 250:
        made[_key(c)] = value(c, 1)
    return made


def message(c: Choices, names: tuple[str, ...] = NAMES) -> bytes:
    """An encoded message, maybe with some bytes of it changed."""
    name = c.pick(names)
    body = bytearray(encode(fields(c, name)))
    if c.byte() >= 224:
        for _ in range(1 + c.below(4)):
            body[c.number(2) % len(body)] = c.byte()
    return bytes(body)


def encode(obj: Any) -> bytes:
    """Encoded as msgpack. Each of these values can be."""
    return msgspec.msgpack.encode(obj)
