"""Between a `Decoding` and JSON.

A *decoding document* is a dict of what differs from the defaults, nested as the classes are:

    {"exit": {"measure": {"class": "softmax_gap", "vocabulary": {"class": "fixed", "keep": 64}}, "threshold": 0.8}}

Defaults are left out, so that an option added later, whose default means "as before", changes no older document. One of
several classes is named by "class": the short name of one that comes along, else "module:Class" with "source", the SHA-256 of
the module's file. Trained arrays are {"head": name}, the head of the checkpoint that holds them. Reading a document imports no
code.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import pathlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from calm_jax import options
from calm_jax.checks import check_type, parts
from calm_jax.decoding.decoding import Decoding
from calm_jax.depth.vocabulary import VOCABULARIES
from calm_jax.nearest import did_you_mean
from calm_jax.options import Option, annotations

RESERVED = ('class', 'source')
# Of the heads that come along, how a checkpoint gets them.
HOW_MADE = {
    'exit_classifier': 'train one (`calm train --gin_file=runs/classifier.gin`)',
    'policy': 'train one (`calm train --gin_file=runs/policy.gin`)',
    'prompt_controller': 'train one (`calm train --gin_file=runs/prompt_controller.gin`)',
    'exit_adapters': 'train some (`calm train --gin_file=runs/adapters.gin`)',
    'controllers': 'train some (`calm train --gin_file=runs/controllers.gin`)',
    'frequent_ids': 'count them (`calm count`)',
}


def to_json(decoding: Decoding) -> dict:
    """The document of a decoding; {} of the default one. Numbers may be scalars of NumPy or JAX.

    Raises ValueError, with the dotted path, for what JSON does not hold: arrays that no head of a checkpoint holds, numbers
    that are not finite, values of another type than their field's, a class that is defined in no file.
    """
    return _fields(decoding, '')


def check_heads(value: Any, heads: Mapping | None, path: str = '') -> None:
    """Raises ValueError where a decoding has trained arrays that are not those of the checkpoint's head: a document names the
    head, and would promise another decoding."""
    for field in dataclasses.fields(value):
        part, where = getattr(value, field.name), _dotted(path, field.name)
        if options.of(field).array:
            stored = (heads or {}).get(value.head, {}).get(field.name)
            if stored is None and part is None:
                continue
            if stored is None or not np.array_equal(np.asarray(part), np.asarray(stored)):
                raise ValueError(
                    f"{where} is not what the checkpoint's {value.head} holds, by which documents name it; save it there first"
                )
        elif dataclasses.is_dataclass(part):
            check_heads(part, heads, where)


def from_json(document: Any, *, heads: Mapping | None = None, classes: Iterable[type] = ()) -> Decoding:
    """The decoding of a document.

    heads: {name: {field: array}} of the checkpoint. classes: those besides the ones that come along that it may name; their
    module's source must be what it was.
    Raises ValueError, in one line with the dotted path, for whatever is unknown, changed, of the wrong type or out of range.
    """
    return _made(Decoding, document, '', heads or {}, {_full_name(each, each.__name__): each for each in classes})


def digest(document: dict) -> str:
    """SHA-256 of a document's canonical JSON (keys sorted, no spaces, numbers as Python's `repr`), hexadecimal."""
    return hashlib.sha256(_canonical(document).encode()).hexdigest()


def source_hash(kind: type) -> str:
    """SHA-256 of the bytes of the file that defines a class, hexadecimal. Raises ValueError where no file does."""
    return hashlib.sha256(_file(kind, kind.__name__).read_bytes()).hexdigest()


def class_name(kind: type, kinds: Mapping[str, type] | None) -> str:
    """A class as documents name it: its short name in the table, else module:Class."""
    return {each: name for name, each in (kinds or {}).items()}.get(kind) or _full_name(kind, kind.__name__)


def class_reference(kind: type, kinds: Mapping[str, type] | None) -> dict:
    """{"class": …} of a class, with its source where it does not come along."""
    name = class_name(kind, kinds)
    return {'class': name} if name in (kinds or {}) else {'class': name, 'source': source_hash(kind)}


def describe(document: dict) -> str:
    """A document in a few words, for labels: 'softmax_gap, fixed vocabulary of 64'; 'full depth' where nothing decides. Limits,
    rules and the seed are left out."""
    exit = document.get('exit', {})
    measure = exit.get('measure', {})
    vocabulary = measure.get('vocabulary', {})
    words = [_words(measure, without=('vocabulary',))] if measure else []
    if vocabulary:
        name = {'fixed': 'keep', 'frequent': 'count'}.get(vocabulary['class'])
        size = '' if name is None else f' of {vocabulary.get(name, getattr(VOCABULARIES[vocabulary["class"]], name))}'
        words.append(_words(vocabulary, without=(name,) if name else (), noun=f' vocabulary{size}'))
    if 'form' in exit:
        words.append(_words(exit['form'], noun=' threshold'))
    words += [_words(exit['adapters'], noun=' adapters')] if exit.get('adapters') else []
    words += [f'{name} {exit[name]}' for name in exit if name not in ('measure', 'form', 'adapters')]
    words += [_words(document['gate'], noun=' gate')] if 'gate' in document else []
    words += [_words(document['plan'], noun=' plan')] if 'plan' in document else []
    words += [_words(document['propagation'], noun=' propagation')] if 'propagation' in document else []
    if not words:
        words = ['full depth']
    return ', '.join(words + ([_words(document['choice'])] if 'choice' in document else []))


def _words(document: dict, without: tuple[str, ...] = (), noun: str = '') -> str:
    """'uniform plan (share 0.5)'."""
    name = document['class'].partition(':')[2] or document['class']
    values = [
        f'{key} {value["class"] if isinstance(value, dict) and "class" in value else value}'
        for key, value in document.items()
        if key not in (*RESERVED, *without) and not (isinstance(value, dict) and 'head' in value)
    ]
    return f'{name}{noun}' + (f' ({", ".join(values)})' if values else '')


def _fields(value: Any, path: str) -> dict:
    """The fields of a dataclass that differ from their defaults."""
    document = {}
    hints = annotations(type(value))
    for field in dataclasses.fields(value):
        where, each = _dotted(path, field.name), options.of(field)
        if field.name in RESERVED:
            raise ValueError(f'{where}: an option cannot be called {field.name}, which documents keep for themselves')
        content = _content(getattr(value, field.name), type(value), each, hints[field.name], where)
        default = _default(field)
        if default is dataclasses.MISSING or _canonical(content) != _canonical(
            _content(default, type(value), each, hints[field.name], where)
        ):
            document[field.name] = content
    return document


def _content(value: Any, owner: type, option: Option, hint: Any, where: str) -> Any:
    """What JSON holds of one field's value."""
    if option.array:
        if owner.head is None:
            raise ValueError(f'{where} holds trained arrays, and {owner.__name__}.head names no head of a checkpoint')
        return None if value is None else {'head': owner.head}
    if option.kind is not None and type(value) is option.kind:
        return _fields(value, where)
    if value is not None and (option.kind is not None or option.kinds is not None):
        return {**class_reference(type(value), option.kinds), **_fields(value, where)}
    return _plain(value, hint, where)


def _plain(value: Any, hint: Any, where: str) -> Any:
    """A number, text, None, or list of them, of the type that the field says."""
    if isinstance(value, np.generic) or (hasattr(value, 'shape') and hasattr(value, 'dtype')):
        if value.shape:
            raise ValueError(f'{where} is an array of shape {tuple(value.shape)}; a document holds numbers, texts and classes')
        value = value.item()
    if not isinstance(value, bool | int | float | str | tuple | list | None):
        raise ValueError(f'{where} is {value!r}; a document holds numbers, texts and classes that an option names')
    check_type(where, value, hint)
    if isinstance(value, tuple | list):
        return [_plain(each, Any, where) for each in value]
    return _number(value, hint, where)


def _number(value: Any, hint: Any, where: str) -> Any:
    """The value, a float where the field takes floats and no integers."""
    kinds = parts(hint)
    if float in kinds and int not in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{where} is {value}; expected a finite number')
    return value


def _made(kind: type, document: Any, path: str, heads: Mapping, classes: Mapping[str, type]) -> Any:
    """A value of a dataclass from its fields' contents."""
    if not isinstance(document, dict):
        raise ValueError(f'{path or "a decoding document"} is {document!r}; expected a JSON object')
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = annotations(kind)
    for name in document:
        if name not in fields:
            raise ValueError(f'{_dotted(path, name)}: {kind.__name__} has no option {name!r}{did_you_mean(name, fields)}')
    values = {}
    for name, field in fields.items():
        each, where = options.of(field), _dotted(path, name)
        if each.array:
            values[name] = _array(kind, field, document.get(name), where, heads)
        elif name in document:
            values[name] = _value(document[name], each, hints[name], where, heads, classes)
        elif _default(field) is dataclasses.MISSING:
            raise ValueError(f'{where} is missing{_expected(each)}')
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        message = ' '.join(str(error).split())
        begins = message.split()[:1] and message.split()[0] in fields
        raise ValueError(_dotted(path, message) if begins else f'{path}: {message}' if path else message) from error


def _value(content: Any, option: Option, hint: Any, where: str, heads: Mapping, classes: Mapping[str, type]) -> Any:
    """The value of one field."""
    if content is None and type(None) in parts(hint):
        return None
    if option.kind is None and option.kinds is None:
        check_type(where, content, hint)
        if not isinstance(content, bool | int | float | str | list | None):
            raise ValueError(f'{where} is {content!r}; expected a number or text')
        wants_tuple = any((typing.get_origin(kind) or kind) is tuple for kind in parts(hint))
        return tuple(content) if isinstance(content, list) and wants_tuple else _number(content, hint, where)
    if not isinstance(content, dict):
        raise ValueError(f'{where} is {content!r}; expected a JSON object{_expected(option)}')
    kind = option.kind if option.kind is not None and 'class' not in content else _class(content, option, where, classes)
    base = tuple(each for each in parts(hint) if isinstance(each, type) and each is not type(None))
    if base and not issubclass(kind, base):
        raise ValueError(f'{where}: {content["class"]} is no {base[0].__name__}')
    parts_of_name = RESERVED if ':' in content.get('class', '') else ('class',)
    own = {name: each for name, each in content.items() if name not in parts_of_name} if 'class' in content else content
    return _made(kind, own, where, heads, classes)


def _class(content: dict, option: Option, where: str, classes: Mapping[str, type]) -> type:
    """The class that a document names: one that comes along, or one that was handed in and has not changed."""
    name, kinds = content.get('class'), option.kinds or {}
    if not isinstance(name, str):
        raise ValueError(f'{where} names no class{_expected(option)}')
    if name in kinds:
        return kinds[name]
    flag = where.split('.')[-1] if option.flag == '' else option.flag
    if ':' not in name:
        raise ValueError(f'{where}: unknown class {name!r}{_expected(option)}{did_you_mean(name, kinds)}')
    if name not in classes:
        by_flag = f'--{flag} {name}, or ' if option.named and flag else ''
        raise ValueError(
            f'{where}: {name!r} does not come along, and a file imports nothing; hand the class in: {by_flag}'
            f'classes=[{name.partition(":")[2]}]{did_you_mean(name, [*kinds, *classes])}'
        )
    recorded, now = content.get('source'), source_hash(classes[name])
    if recorded != now:
        changed = f'its module was {recorded[:12]}…' if isinstance(recorded, str) else 'the document lacks its source'
        raise ValueError(
            f'{where}: {name} is not what the document was made with: {changed}, and is {now[:12]}… now (SHA-256 of its file); '
            'put the file back as it was, or make the document again'
        )
    return classes[name]


def _array(kind: type, field: dataclasses.Field, content: Any, where: str, heads: Mapping) -> Any:
    """A trained array, from the head of the checkpoint that the class names."""
    head, name = kind.head, field.name
    if content not in (None, {'head': head}):
        raise ValueError(f'{where} is {content!r}; expected {{"head": {json.dumps(head)}}}')
    if head not in heads:
        noun, how = str(head).replace('_', ' '), HOW_MADE.get(str(head), f'train one ({kind.__name__} says how)')
        raise ValueError(f'{where}: the checkpoint holds no {noun}; {how}, or use another class')
    if name not in heads[head] and field.default is None:
        return None
    if name not in heads[head]:
        raise ValueError(f'{where}: the head {head} of the checkpoint holds no {name}, only {", ".join(sorted(heads[head]))}')
    return heads[head][name]


def _expected(option: Option) -> str:
    """'; expected one of …', where there is a table."""
    names = [*(option.kinds or {}), *(['module:Class'] if option.named else [])]
    return f'; expected one of {", ".join(names)}' if names else ''


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _dotted(path: str, name: str) -> str:
    return f'{path}.{name}' if path else name


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(',', ':'), allow_nan=False)


def _full_name(kind: type, where: str) -> str:
    """module:Class; of a script that is being run, the name that it would be imported by."""
    module = _file(kind, where).stem if kind.__module__ == '__main__' else kind.__module__
    return f'{module}:{kind.__qualname__}'


def _file(kind: type, where: str) -> pathlib.Path:
    try:
        return pathlib.Path(inspect.getfile(kind))
    except (TypeError, OSError):
        raise ValueError(f'{where} is defined in no file; put the class in a module, so that its source can be told') from None
