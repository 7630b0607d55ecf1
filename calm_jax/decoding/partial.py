"""Partial decoding documents: what one source says, over what another says.

They hold what was said of defaults too, and a node may name no class, where another source chooses it. The text after a class's
name, as in uniform:4, is "of" until the model's sizes are known.
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from calm_jax import options
from calm_jax.decoding.codec import RESERVED, class_name
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layout import Layout, Path, at
from calm_jax.types import Sizes

TEXT = 'of'


def merged(below: dict, above: dict) -> dict:
    """A document over another: where it names another class, nothing of the class below stays."""
    document = dict(below)
    for name, value in above.items():
        under = document.get(name)
        if isinstance(value, dict) and isinstance(under, dict) and not _differ(under, value):
            document[name] = merged(under, value)
        else:
            document[name] = copy.deepcopy(value)
    return document


def _differ(below: dict, above: dict) -> bool:
    """Whether both name a class, and not the same."""
    return 'class' in below and 'class' in above and below['class'] != above['class']


def put(document: dict, path: Path, content: Any) -> None:
    """Puts content at a path, beside what is there."""
    *parents, name = path
    for parent in parents:
        if not isinstance(document.get(parent), dict):
            document[parent] = {}
        document = document[parent]
    if isinstance(content, dict) and isinstance(document.get(name), dict):
        content = {**document[name], **content}
    document[name] = content


def selected(document: dict, layout: Layout) -> dict:
    """The document with the classes that options choose by another value than the one that chooses none.

    Raises ValueError where two choose.
    """
    document, chosen = copy.deepcopy(document), {}
    for place in layout.selecting():
        node, selects = at(document, place.path), place.option.selects
        if node.get(place.field.name, selects) == selects:
            continue
        words = f'--{place.option.flag} {node[place.field.name]}'
        name = class_name(place.kind, layout.place(place.path).option.kinds)
        if node.get('class', name) != name:
            other = chosen.get(place.path, f'{place.path[-1]} {node["class"]}')
            raise ValueError(f'{other} and {words} exclude each other; leave one of the two out')
        node['class'], chosen[place.path] = name, words
    return document


def unselected(document: dict, layout: Layout) -> dict:
    """The document without classes whose option chooses none, and without such options where another class is chosen."""
    document = copy.deepcopy(document)
    for place in layout.selecting():
        node, parent = at(document, place.path), at(document, place.path[:-1])
        if node.get(place.field.name) != place.option.selects:
            continue
        del node[place.field.name]
        if node.get('class') in (None, class_name(place.kind, layout.place(place.path).option.kinds)):
            del parent[place.path[-1]]
    return document


def completed(document: dict, layout: Layout, sizes: Sizes, path: Path = ()) -> dict:
    """The document with the text after a class's name made options, for a model of these sizes.

    Raises ValueError for a text that means nothing, or says what an option says too.
    """
    made = {}
    for name, value in document.items():
        if isinstance(value, dict):
            value = completed(value, layout, sizes, (*path, name))
            if TEXT in value:
                text = value.pop(TEXT)
                made_of_text = layout.kinds((*path, name))[value['class']].of(text, sizes)
                if twice := sorted(set(value) & set(made_of_text)):
                    raise ValueError(f'--{name} {value["class"]}:{text} and {twice[0]} both say how much; leave one out')
                value.update(made_of_text)
        made[name] = value
    return made


def leaves(document: dict, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every option in a document, and of every class as (…, 'class')."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        elif name != 'source':
            yield (*path, name), value


def otherwise(partial: dict, document: dict, layout: Layout) -> Iterator[tuple[str, Any, Any]]:
    """(name of the flag, what was said, what the document has) of whatever was said otherwise than a document has it."""
    for path, value in leaves(partial):
        if path[-1] == 'class':
            flag, has = layout.flag(path[:-1]), layout.chosen(document, path[:-1])
        else:
            flag, has = layout.flag(path), layout.value(document, path)
        if value != has:
            yield flag, value, has


def check_owned(partial: dict, document: dict, layout: Layout, kind: type = Decoding, path: Path = ()) -> None:
    """Raises ValueError for what was said of a class that the document does not choose."""
    fields = {field.name: options.of(field) for field in dataclasses.fields(kind)}
    for name, value in partial.items():
        where = (*path, name)
        if (
            name in (*RESERVED, TEXT)
            or value is None
            or any(place.full_path == where and place.option.selects == value for place in layout.selecting())
        ):
            continue
        if name not in fields:
            raise ValueError(_unowned(_first(value, where, layout), where, document, layout))
        if not isinstance(value, dict):
            continue
        inner, classes = fields[name].kind, layout.kinds(where)
        if inner is None:
            chosen = layout.chosen(document, where)
            if chosen is None:
                raise ValueError(f'--{_first(value, where, layout)} changes nothing without --{layout.flag(where)}')
            inner = classes.get(chosen)
        elif lacks := missing(inner, at(document, where)):
            if said_besides := [each for each in value if each != lacks]:
                first = _first(value[said_besides[0]], (*where, said_besides[0]), layout)
                raise ValueError(f'--{first} changes nothing without --{layout.flag((*where, lacks))}')
        if inner is not None:
            check_owned(value, document, layout, inner, where)


def missing(kind: type, node: dict) -> str | None:
    """The first option that has no default and that a document's node lacks: without it there is no such thing."""
    return next(
        (
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and 'class' not in (node.get(field.name) or {})
        ),
        None,
    )


def _first(value: Any, path: Path, layout: Layout) -> str:
    """The flag of the first thing said at a path or under it."""
    if not isinstance(value, dict) or 'class' in value:
        return layout.flag(path)
    return next((_first(each, (*path, name), layout) for name, each in value.items()), layout.flag(path))


def _unowned(flag: str, path: Path, document: dict, layout: Layout) -> str:
    """'--alpha belongs to weighted_contrast, divergent_contrast; --measure is softmax_gap'."""
    *_, name = path
    parent = path[:-1]
    kinds, option = layout.kinds(parent), layout.place(parent).option
    owners = [each for each, kind in kinds.items() if name in kind.__dataclass_fields__]
    if option.flag is None:
        chosen_by = {place.kind: f'--{place.option.flag}' for place in layout.selecting()}
        return f'--{flag} changes nothing without {" or ".join(chosen_by.get(kinds[each], each) for each in owners)}'
    return f'--{flag} belongs to {", ".join(owners)}; --{option.flag} is {layout.chosen(document, parent)}'
