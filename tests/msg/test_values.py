"""contract: pretty structs, namespace paths and type unions as names."""

import functools
import types
from typing import Any

import msgspec
import pytest

from tractor.msg import NamespacePath, Struct
from tractor.msg import pretty_struct as ps
from tractor.msg._exts import dec_type_union, enc_type_union


class Inner(Struct):
    depth: int
    _hidden: int = 0


class Outer(Struct):
    name: str
    inner: Inner | None = None
    _secret: str = 'secret'


class Frozen(Struct, frozen=True):
    x: int


class Empty(Struct):
    pass


class Plain(msgspec.Struct):
    x: int
    y: list[int]


def test_pformat() -> None:
    assert repr(Inner(3)) == 'Inner(\n  depth: int = 3,\n)'
    assert repr(Empty()) == 'Empty(\n)'
    outer = Outer('o', Inner(3))
    assert repr(outer) == "Outer(\n  name: str = 'o',\n    depth: int = 3,\n)"
    assert outer.pformat(field_indent=0) == "Outer(\nname: str = 'o',\ndepth: int = 3,\n)"
    assert ps.pformat(Inner(3), indent=2) == '  Inner(\n    depth: int = 3,\n  )'
    assert ps.pformat(Plain(1, [2])) == 'Plain(\n  x: int = 1,\n  y: list[int] = [2],\n)'
    assert list(ps.iter_struct_ppfmt_lines(Inner(3))) == [('', 'depth: int = 3,')]


def test_iter_fields() -> None:
    triples = [(info.name, name, value) for info, name, value in ps.iter_fields(Inner(3))]
    assert triples == [('depth', 'depth', 3), ('_hidden', '_hidden', 0)]


def test_repr_falls_back_where_hints_cannot_be_resolved() -> None:
    class Unresolved(Struct):
        x: 'Nowhere'  # type: ignore[name-defined]  # noqa: F821

    assert repr(Unresolved(1)) == 'Unresolved(x=1)'


def test_copy_leaves_the_original_alone() -> None:
    outer = Outer('o', Inner(3))
    other = outer.copy({'name': 'p'})
    assert (outer.name, other.name) == ('o', 'p')
    assert other.inner == outer.inner
    assert other.inner is not outer.inner
    assert Frozen(1).copy({'x': 2}) == Frozen(2)
    assert Frozen(1).copy() == Frozen(1)
    with pytest.raises(msgspec.ValidationError):
        outer.copy({'name': 5})
    with pytest.raises(TypeError):
        outer.copy({'unheard': 5})


def test_typecast() -> None:
    inner: Any = Inner('3')  # type: ignore[arg-type]
    inner.typecast()
    assert inner.depth == 3
    with pytest.raises(msgspec.ValidationError):
        Inner('three').typecast()  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Frozen(1).typecast()


def test_differences() -> None:
    diff = Outer('a', Inner(3)) - Outer('b', Inner(3))
    assert list(diff) == [('name', 'a', 'b')]
    assert repr(diff) == "DiffDump([\n  name: 'a' -> 'b',\n])"
    assert repr(Inner(1) - Inner(1)) == 'DiffDump([])'
    assert list(Inner(1) - Plain(1, [])) == [('depth', 1, None), ('_hidden', 0, None)]
    assert list(Inner.fields_diff({'depth': 1, 'extra': 2})) == [
        ('_hidden', int, None),
        ('extra', None, 2),
    ]


@pytest.mark.parametrize('include', [True, False])
def test_to_dict(include: bool) -> None:
    assert Inner(3).to_dict(include_non_members=include) == {'depth': 3, '_hidden': 0}


def func() -> None:
    pass


class Owner:
    def method(self) -> None:
        pass

    @classmethod
    def build(cls) -> None:
        pass


@pytest.mark.parametrize(
    ('ref', 'name'),
    [
        (func, 'func'),
        (Owner().method, 'Owner.method'),
        (Owner.build, 'Owner.build'),
        (Owner, 'Owner'),
        (Owner(), 'Owner'),
    ],
)
def test_namespace_path_from_ref(ref: Any, name: str) -> None:
    path = NamespacePath.from_ref(ref)
    assert isinstance(path, NamespacePath)
    assert path == f'{__name__}:{name}'
    assert path.to_tuple() == (__name__, name)


def test_namespace_path_load_ref() -> None:
    path = NamespacePath('functools:partial')
    assert path.load_ref() is functools.partial
    assert path.load_ref() is path.load_ref()
    assert NamespacePath.from_ref(len) == 'builtins:len'
    assert NamespacePath('collections:OrderedDict.fromkeys').load_ref() is not None
    with pytest.raises(AttributeError):
        NamespacePath('functools:unheard').load_ref()
    with pytest.raises(ImportError):
        NamespacePath('no.such.module:unheard').load_ref()


def test_type_unions_as_names() -> None:
    assert enc_type_union(int | None) == ['int', 'NoneType']
    assert enc_type_union(Owner) == ['Owner']
    assert enc_type_union(list[int]) == ['list']
    assert dec_type_union(['int', 'NoneType', 'Unheard']) == int | None
    here = types.ModuleType('here')
    here.Owner = Owner  # type: ignore[attr-defined]
    assert dec_type_union(enc_type_union(Owner | None), mods=[here]) == Owner | None
    assert dec_type_union(['Any']) is Any
    with pytest.raises(TypeError, match='Unheard'):
        dec_type_union(['Unheard'])
