"""Chat templates: how the messages of a conversation become one text for the model.

A template is a program in the Jinja language that comes with a checkpoint. It runs in a sandbox that cannot change what it is
given, and with no more than the messages, the special tokens and the few functions that transformers gives it.
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from calm_jax.data.conversation import Messages

_DEFAULT = 'default'
_CLOCK = 'strftime_now'  # the function of a form, as strftime has them, that templates call


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The template of a checkpoint. tokens: its special tokens by role, which the template may write."""

    source: str
    tokens: Mapping[str, str]

    @classmethod
    def read(cls, published: Any, tokens: Mapping[str, str]) -> 'ChatTemplate':
        """From `chat_template` of a tokenizer_config.json: a text, or several by name, of which the default is meant.

        Raises ValueError where there is no default.
        """
        if isinstance(published, str):
            return cls(published, tokens)
        try:
            listed = published if isinstance(published, Mapping) else {each['name']: each['template'] for each in published}
            named: dict[str, Any] = dict(listed)
        except (TypeError, KeyError):
            raise ValueError('chat_template is no text and no list of named ones') from None
        if not isinstance(named.get(_DEFAULT), str):
            raise ValueError(f'the chat templates are {", ".join(map(str, named)) or "none"}; expected one named {_DEFAULT}')
        return cls(named[_DEFAULT], tokens)

    @property
    def dated(self) -> bool:
        """Whether the template asks what time it is, so that its texts are of the day."""
        return self._compiled[1]

    def render(self, messages: Messages, date: datetime.datetime | None = None) -> str:
        """The text of a conversation, up to where the assistant's next message begins. The text holds its special tokens.

        messages: [{'role': 'user', 'content': '…'}, …], the first a system prompt if any. date: what a template that asks is
        told; None: the moment at which it asks.

        Raises ValueError, in one line, for messages that are none, that the template refuses, or of which it needs more than
        messages and special tokens.
        """
        template, _ = self._compiled
        clock = {_CLOCK: lambda form: (date or datetime.datetime.now()).strftime(form)}
        try:
            return template.render(
                **self.tokens, **clock, messages=_plain(messages), tools=None, documents=None, add_generation_prompt=True
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(f'the chat template refuses the messages: {" ".join(str(error).split())}') from None

    @functools.cached_property
    def _compiled(self) -> tuple[jinja2.Template, bool]:
        """The program, and whether it asks for the time."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters['tojson'] = _to_json
        environment.globals['raise_exception'] = _raise
        try:
            names = environment.parse(self.source).find_all(jinja2.nodes.Name)
            return environment.from_string(self.source), any(each.name == _CLOCK for each in names)
        except jinja2.TemplateError as error:
            raise ValueError(f'the chat template needs what there is not here: {" ".join(str(error).split())}') from None


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks what the assistant says for training; here it is a part of the text like any other."""

    tags = {'generation'}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(('name:endgeneration',), drop_needle=True), lineno=line)


def _plain(value: Any) -> Any:
    """Messages as JSON has them, made anew: a template is given nothing that can do anything. What is None is left out."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return json.loads(json.dumps(value))


def _to_json(value: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    # Jinja's own escapes what HTML gives a meaning.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
