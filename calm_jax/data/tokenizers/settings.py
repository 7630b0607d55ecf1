"""What is said beside a vocabulary: the kind of the tokenizer, its special tokens, and the tokens that were added to it.

tokenizer_config.json     the kind (`tokenizer_class`), tokens by role, settings, `added_tokens_decoder`: {id: token}
special_tokens_map.json   tokens by role, and others that are special; older than `added_tokens_decoder`
added_tokens.json         {token: id}; older than `added_tokens_decoder`
chat_template.jinja       how messages become a text; additional_chat_templates/NAME.jinja: others
config.json               the kind, in old folders
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from calm_jax.data.tokenizers.classes import DESCRIBED, LANGUAGE, RENAMED, TokenizerClass, class_of
from calm_jax.files import read_json

SETTINGS = 'tokenizer_config.json'
ROLES = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token')
OTHERS = ('extra_special_tokens', 'additional_special_tokens')  # special tokens without a role; the newer name first
TOKENS = (*ROLES, *OTHERS)
_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a published tokenizer.

    fields: as they are written again, a tokenizer_config.json that says all that was said elsewhere too.
    added: the tokens that were added, by id.
    """

    fields: dict[str, Any]
    added: dict[int, tokenizers.AddedToken]

    @property
    def class_name(self) -> str:
        """The class it was published under."""
        return self.fields['tokenizer_class']

    @property
    def kind(self) -> TokenizerClass:
        """What the class takes for granted."""
        return class_of(self.class_name)

    @property
    def extra_ids(self) -> int:
        """How many sentinels the class appends to the vocabulary."""
        return self.fields.get('extra_ids', self.kind.extra_ids)

    @property
    def language(self) -> str | None:
        """The language of a text where nobody names another; None where texts have none."""
        return str(self.fields.get('src_lang') or LANGUAGE) if self.kind.language else None

    def token(self, role: str) -> str | None:
        """The token of a role: as named, null meaning none; else the class's own."""
        return _content(self.fields[role]) if role in self.fields else self.kind.tokens.get(role)

    def flag(self, name: str, default: bool) -> bool:
        """A setting that is true or false; null and nothing mean the default."""
        value = self.fields.get(name)
        return default if value is None else bool(value)

    def special_tokens(self, holds: Callable[[str], bool]) -> list[tokenizers.AddedToken]:
        """The tokens by role and the other special ones, as they are looked for in a text. holds: whether a token is in the
        vocabulary, without which a class's own is none."""
        named = [self.fields.get(role, default) for role in ROLES if (default := self._default(role, holds)) is not None]
        others = next((value for name in OTHERS if (value := self.fields.get(name))), [])
        named += list(others.values()) if isinstance(others, Mapping) else list(others)
        known = {token.content: token for token in self.added.values()}
        return [
            known.get(content) or _token({'content': content, 'special': True, **_flags(value, normalized=False)})
            for value in named
            if (content := _content(value)) is not None
        ]

    def _default(self, role, holds):
        token = self.token(role)
        return token if role in self.fields or (token is not None and holds(token)) else None


def read_settings(directory: str | os.PathLike, class_name: str | None = None) -> Settings:
    """The settings in a folder. class_name: of the tokenizer, where the folder does not say.

    Raises ValueError for a file that cannot be understood.
    """
    directory = Path(directory)
    given = _read(directory / SETTINGS)
    special = _read(directory / 'special_tokens_map.json')
    # Where `added_tokens_decoder` is there, the older files are none of its time.
    fields = {**special, **given} if 'added_tokens_decoder' in given else {**given, **special}
    if (templates := _chat_templates(directory)) is not None:
        fields['chat_template'] = templates
    name = fields.get('tokenizer_class') or _read(directory / 'config.json').get('tokenizer_class') or class_name
    name = str(name or DESCRIBED)
    settings = Settings({**fields, 'tokenizer_class': RENAMED.get(name, name)}, _added_tokens(directory, fields))
    _checked_extra_ids(settings.extra_ids, f'{directory / SETTINGS}')
    return settings


def describe(token: tokenizers.AddedToken) -> dict[str, Any]:
    """A token as `added_tokens_decoder` has it."""
    return {'content': token.content, **{flag: getattr(token, flag) for flag in _FLAGS}}


def contents(value: Any) -> Any:
    """A token as its text, and several tokens as theirs; how it is looked for stands in `added_tokens_decoder`."""
    if isinstance(value, Mapping) and 'content' not in value:
        return {name: _content(each) for name, each in value.items()}
    return [_content(each) for each in value] if isinstance(value, list) else _content(value)


def number_of_extra_ids(path: Path, default: int) -> int:
    """The `extra_ids` of a JSON file. Raises ValueError for what is no number of them."""
    return _checked_extra_ids(_read(path).get('extra_ids', default), str(path))


def _checked_extra_ids(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f'{where}: "extra_ids" is {json.dumps(value)}; expected a whole number of 0 or more')
    return value


def _added_tokens(directory, fields):
    """{id: token} of what was added to the vocabulary."""
    try:
        if 'added_tokens_decoder' in fields:
            return {int(number): _token(token) for number, token in fields['added_tokens_decoder'].items()}
        special = {content for role in ROLES if (content := _content(fields.get(role))) is not None}
        others = contents(next((value for name in OTHERS if (value := fields.get(name))), []))
        special |= set(others.values() if isinstance(others, Mapping) else others)
        older = _read(directory / 'added_tokens.json')
        return {
            int(number): _token({'content': name, 'special': name in special, 'normalized': name not in special})
            for name, number in older.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{directory}: the added tokens are damaged ({" ".join(str(error).split())}); copy it again') from None


def _chat_templates(directory):
    """The chat templates that have files of their own: a text, a list of {name, template}, or None."""
    path, others = directory / 'chat_template.jinja', directory / 'additional_chat_templates'
    named = {each.stem: each.read_text(encoding='utf-8') for each in sorted(others.glob('*.jinja'))}
    if path.is_file():
        named = {'default': path.read_text(encoding='utf-8'), **named}
    if set(named) == {'default'}:
        return named['default']
    return [{'name': name, 'template': template} for name, template in named.items()] or None


def _token(fields: Mapping[str, Any]) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(fields['content'], **_flags(fields))


def _flags(value: Any, **defaults: bool) -> dict[str, bool]:
    return {**defaults, **({flag: bool(value[flag]) for flag in _FLAGS if flag in value} if isinstance(value, Mapping) else {})}


def _content(value: Any) -> str | None:
    """A token, published as a text or as an object that holds it."""
    return value.get('content') if isinstance(value, Mapping) else value


def _read(path: Path) -> dict:
    """The object in a file; nothing where there is no file."""
    return read_json(path) if path.is_file() else {}
