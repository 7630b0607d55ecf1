"""What a run of t5x says of its model: the gin configuration that it writes into its folder.

It names classes of t5x, which need not be here: gin's grammar reads it, and nothing is imported.
"""

import os
import pathlib
import tokenize
from collections.abc import Mapping
from typing import Any, NamedTuple

from gin import config_parser

from calm_jax.data.tokenizers import ByteTokenizer, SentencePieceTokenizer, Tokenizer

_FILES = ('config.gin', 'operative_config.gin')
# Of T5Config: how results are rounded, or kept for gradients.
_INERT = {'dtype', 'float32_attention_logits', 'remat_policy', 'param_scan_axis'}
# What only the file can say: which functions, and numbers that no parameter has.
_BESIDE = {'mlp_activations', 'dropout_rate', 'scale_attn_logits'}
_ACTIVATIONS = {'gelu': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu', 'linear': 'linear'}
_PIECES, _BYTES = 'SentencePieceVocabulary', 'ByteVocabulary'
_PIECE_OPTIONS = {'sentencepiece_model_file', 'extra_ids', 'use_fast_tokenizer'}
_PROBE = 'aé'


class _Reference(NamedTuple):
    """@scope/name()"""

    scope: str
    name: str


class _Macro(NamedTuple):
    """%name"""

    name: str


class _Grammar(config_parser.ParserDelegate):
    """gin's: references and macros are kept as such."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        scope, _, name = scoped_configurable_name.rpartition('/')
        return _Reference(scope, _last(name))

    def macro(self, macro_name):
        return _Macro(macro_name)


class Vocabulary(NamedTuple):
    """A class of seqio, and what it is made of."""

    kind: str
    options: dict[str, Any]


class RunConfiguration(NamedTuple):
    """What a gin file says. path: its own. model: {field of t5x's T5Config: value}. vocabulary: None where it names none."""

    path: pathlib.Path
    model: dict[str, Any]
    vocabulary: Vocabulary | None

    @property
    def scan_axis(self) -> int | None:
        """Along which axis layers are stacked, where the file says so."""
        return self.model.get('param_scan_axis')

    def fields(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of TransformerConfig that only the file can say.

        stored: T5Config's fields as the parameters have them; of `mlp_activations` their number counts. Raises ValueError where
        the file says otherwise, and for a field that no model here has.
        """
        if unknown := sorted(set(self.model) - {*stored, *_BESIDE, *_INERT}):
            raise ValueError(f'{self.path}: T5Config.{unknown[0]} is not understood')
        for name, value in self.model.items():
            if name in stored and name not in _BESIDE and value != stored[name]:
                raise ValueError(f'{self.path}: {name} is {value!r}, but the parameters are of {stored[name]!r}')
        return {
            'mlp_activations': self._activations(
                self.model.get('mlp_activations', stored['mlp_activations']), len(stored['mlp_activations'])
            ),
            'dropout_rate': self.model.get('dropout_rate', stored['dropout_rate']),
            'attention_scale': self.model.get('scale_attn_logits', False),
        }

    def _activations(self, names, count):
        known = isinstance(names, list | tuple) and all(isinstance(name, str) and name in _ACTIVATIONS for name in names)
        if not known or len(names) != count:
            raise ValueError(
                f'{self.path}: mlp_activations is {names!r}, but the parameters are of {count}; '
                f'expected as many of {", ".join(_ACTIVATIONS)}'
            )
        return tuple(_ACTIVATIONS[name] for name in names)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the file names. Raises ValueError where it is not here."""
        kind, options = self.vocabulary or (None, {})
        if kind == _BYTES:
            return ByteTokenizer(options.get('extra_ids') or 0)
        model = options.get('sentencepiece_model_file')
        if kind != _PIECES or not isinstance(model, str) or set(options) - _PIECE_OPTIONS:
            raise ValueError(f'{self.path}: names no vocabulary that is read here; name the folder of one with --tokenizer')
        path = pathlib.Path(model)
        if not path.is_file():
            raise ValueError(f'{self.path}: the vocabulary is {model}; fetch it, and name its folder with --tokenizer')
        try:
            return SentencePieceTokenizer(path.read_bytes(), options.get('extra_ids') or 0)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

    def check_tokenizer(self, tokenizer: Tokenizer, directory: str | os.PathLike) -> None:
        """Raises ValueError where a folder's tokenizer is of another kind than the file's, or has other sentinels."""
        kind, options = self.vocabulary or (None, {})
        bytewise = tokenizer.encode(_PROBE, add_special=False) == ByteTokenizer().encode(_PROBE)
        if kind in (_BYTES, _PIECES) and bytewise != (kind == _BYTES):
            raise ValueError(f'{self.path}: the vocabulary is a {kind}, but {directory} holds another kind of tokenizer')
        extra_ids = options.get('extra_ids')
        if extra_ids and tokenizer.extra_ids != extra_ids:
            raise ValueError(
                f'{self.path}: the vocabulary has {extra_ids} extra_ids, but the tokenizer in {directory} '
                f'{tokenizer.extra_ids}; say {{"extra_ids": {extra_ids}}} in its tokenizer_config.json'
            )


def read_run(directory: pathlib.Path) -> RunConfiguration | None:
    """What the run in a folder says of its model; None where no gin file is there, or says nothing of a T5Config.

    Raises ValueError for a file that is none of gin's, or leaves to other files what it means.
    """
    path = next((directory / name for name in _FILES if (directory / name).is_file()), None)
    if path is None:
        return None
    macros, bindings = {}, {}
    try:
        for statement in config_parser.ConfigParser(path.read_text(), _Grammar()):
            if isinstance(statement, config_parser.IncludeStatement):
                raise ValueError(f'includes {statement.filename}; expected the resolved configuration that t5x writes')
            if isinstance(statement, config_parser.BindingStatement):
                if statement.arg_name:
                    name = statement.scope, _last(statement.selector)
                    bindings.setdefault(name, {})[statement.arg_name] = statement.value
                else:
                    macros[statement.selector] = statement.value
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        raise ValueError(f'{path}: cannot be read as gin ({" ".join(str(error).split())[:200]})') from None

    def value_of(value):
        for _ in range(1 + len(macros)):  # a macro may be another
            value = macros.get(value.name) if isinstance(value, _Macro) else value
        return value

    def options(scope, name):
        values = {**bindings.get(('', name), {}), **bindings.get((scope, name), {})}
        return {option: value for option, raw in values.items() if (value := value_of(raw)) is not None}

    model = options('', 'T5Config')
    if not model:
        return None
    sides = [value_of(each.get(f'{side}_vocabulary')) for each in bindings.values() for side in ('input', 'output')]
    references = {side for side in sides if isinstance(side, _Reference)}
    if len(references) > 1:
        raise ValueError(f'{path}: input_vocabulary and output_vocabulary are two; expected one that both sides share')
    vocabularies = [Vocabulary(each.name, options(*each)) for each in references]
    return RunConfiguration(path, model, next(iter(vocabularies), None))


def _last(selector):
    """The name of a class, without the module that it is in."""
    return selector.rpartition('.')[2]
