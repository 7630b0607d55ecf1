"""Everything about decoding that decides the output, as plain numbers and names: what a file, a flag or a certificate can
hold. `build` turns it into the values that the decode loop takes."""

import dataclasses
import importlib
import json
from typing import Any, Literal, NamedTuple

from calm_jax.checks import check_seed, check_types
from calm_jax.decoding import propagation
from calm_jax.decoding.beam import Beam
from calm_jax.decoding.constraints import Constraints
from calm_jax.decoding.sampling import Greedy, Sampled
from calm_jax.depth import confidence, contrast, thresholds
from calm_jax.depth.plans import Uniform
from calm_jax.depth.thresholds import Exit
from calm_jax.depth.vocabulary import Pruned
from calm_jax.models.config import DTYPES
from calm_jax.nearest import did_you_mean

# Those that come along. One of your own needs no line here: it is named by where it is, 'package.module:Class'.
MEASURES = {
    'softmax_gap': confidence.SoftmaxGap,
    'softmax_max': confidence.SoftmaxMax,
    'state': confidence.StateSimilarity,
    'classifier': confidence.Classifier,
    'weighted_contrast': contrast.WeightedContrast,
    'divergent_contrast': contrast.DivergentContrast,
    'oracle': confidence.Oracle,
    'static': confidence.StaticDepth,
}
FORMS = {'constant': thresholds.Constant, 'decaying': thresholds.Decaying, 'scaled_decaying': thresholds.ScaledDecaying}
PRUNINGS = ('none', 'fixed', 'decaying')
KEEP = 256  # ids that fixed pruning keeps where nothing is said
PROPAGATIONS = {
    'lazy': propagation.Lazy,
    'eager': propagation.Eager,
    'first_state': propagation.FirstState,
    'copy_kv': propagation.CopyKV,
}


class Values(NamedTuple):
    """What `generate` takes, made of settings."""

    exit: Exit | None
    plan: Any
    propagation: Any
    sampling: Any
    constraints: Constraints | None
    beam: Beam | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How texts are decoded.

    max_source_length, max_new_tokens: tokens, the end-of-sequence included.
    measure: a name of MEASURES, 'package.module:Class' of one that you wrote, or None for full depth; threshold: λ in
    [0, 1], 1 turns every decision off. measure_options: arguments of a measure of yours, as 'scale=0.5,window=3'.
    pruning: of the vocabulary that the measure looks at, from layer min_exit_layer on: 'none'; 'fixed', the keep likeliest ids;
    'decaying', ever fewer, from keep (0: all) to keep_least. partition: 'kept' or 'full' (`calm_jax.depth.vocabulary.Pruned`).
    alpha, emits: of a contrast, how likely its tokens must be, and which distribution is emitted (`calm_jax.depth.contrast`).
    threshold_form: a name of FORMS; decay_temperature: τ of a decaying form; min_exit_layer: 1…L.
    propagation: a name of PROPAGATIONS. plan: 'full', 'uniform:C' (C of the decoder's layers), or 'package.module:function'
    of a maker of yours: TransformerConfig → (example ids [B] → Plan).
    temperature: 0 decodes greedily; top_k, top_p: restrict sampling; seed: of the draws.
    num_beams: sequences that a beam search keeps, 1 is none; length_penalty, early_stopping: of it (`Beam`).
    no_repeat_ngram_size, min_new_tokens, forced_first_id, forced_last_id: rules over what may be said (`Constraints`).
    dtype: of parameters and activations.
    Raises ValueError for whatever is unknown, of the wrong type or out of range.
    """

    max_source_length: int = 512
    max_new_tokens: int = 128
    measure: str | None = None
    measure_options: str = ''
    pruning: str = 'none'
    keep: int = 0
    keep_least: int = 256
    partition: str = 'kept'
    alpha: float = 0.1
    emits: str = 'model'
    threshold: float = 1.0
    threshold_form: str = 'constant'
    decay_temperature: float = 4.0
    min_exit_layer: int = 1
    propagation: str = 'lazy'
    plan: str = 'full'
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal['never'] = False
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    forced_first_id: int = -1
    forced_last_id: int = -1
    dtype: str = 'float32'

    def __post_init__(self):
        check_types(self)
        for name in ('max_source_length', 'max_new_tokens', 'min_exit_layer'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 1 or more')
        if self.measure is not None:
            _measure(self.measure)
        _options(self.measure_options)
        known(self.pruning, PRUNINGS, 'pruning')
        self._vocabulary()
        contrast.WeightedContrast(self.alpha, self.emits)  # refuses what it cannot be
        known(self.threshold_form, FORMS, 'threshold_form')
        known(self.propagation, PROPAGATIONS, 'propagation')
        if not 0 <= self.threshold <= 1:
            raise ValueError(f'threshold is {self.threshold}; expected λ in [0, 1], where 1 is the full model')
        if self.measure is None and self.threshold < 1:
            raise ValueError(f'threshold is {self.threshold} without a measure; name one of {_list(MEASURES)}')
        if not self.decay_temperature >= 0:
            raise ValueError(f'decay_temperature is {self.decay_temperature}; expected τ of 0 or more')
        if not self.temperature >= 0:
            raise ValueError(f'temperature is {self.temperature}; expected 0 (greedy) or more')
        Sampled(self.temperature or 1.0, self.top_k, self.top_p)  # refuses what it cannot draw from
        self._constraints()
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f'min_new_tokens is {self.min_new_tokens}, max_new_tokens {self.max_new_tokens}; expected no more')
        Beam(self.num_beams, self.length_penalty, self.early_stopping)
        if self.num_beams > 1 and (self.measure is not None or self.temperature):
            other = 'temperature' if self.measure is None else 'measure'
            raise ValueError(
                f'num_beams is {self.num_beams} with a {other}: beam search is greedy, at full depth or within '
                'a plan; leave one of the two out'
            )
        check_seed('seed', self.seed)
        known(self.dtype, DTYPES, 'dtype')

    def build(self, config, heads=None) -> Values:
        """The values for a model with this TransformerConfig and these trained heads."""
        for name in ('forced_first_id', 'forced_last_id'):
            if getattr(self, name) >= config.vocab_size:
                raise ValueError(f'{name} is {getattr(self, name)}; the vocabulary has {config.vocab_size} ids')
        exit, plan = self._exit(config, heads), self._plan(config)
        if exit is not None and self.threshold >= 1:
            exit = plan = None  # λ ≥ 1 turns every decision off: the program that has no conditionals at all
        return Values(
            exit=exit,
            plan=plan,
            propagation=PROPAGATIONS[self.propagation](),
            sampling=Sampled(self.temperature, self.top_k, self.top_p) if self.temperature else Greedy(),
            constraints=self._constraints(),
            beam=Beam(self.num_beams, self.length_penalty, self.early_stopping) if self.num_beams > 1 else None,
        )

    def _constraints(self):
        made = Constraints(self.no_repeat_ngram_size, self.min_new_tokens, self.forced_first_id, self.forced_last_id)
        return None if made == Constraints() else made

    def deciding(self) -> dict:
        """What the output depends on: the settings without those that their own choice leaves unused, for JSON."""
        used = dataclasses.asdict(self)
        unused = set()
        if self.measure is None or self.threshold >= 1:
            unused |= {'threshold_form', 'decay_temperature', 'min_exit_layer', 'propagation'}
        if not self.measure_options:
            unused.add('measure_options')
        if self.measure is None or self.threshold >= 1 or self.pruning == 'none':
            unused |= {'pruning', 'keep', 'keep_least', 'partition'}
        elif self.pruning == 'fixed':
            unused.add('keep_least')
        if not self.contrasts or self.threshold >= 1:
            unused |= {'alpha', 'emits'}
        if self.threshold_form == 'constant':
            unused.add('decay_temperature')
        if not self.temperature:
            unused |= {'top_k', 'top_p', 'seed'}
        if self.num_beams == 1:
            unused |= {'length_penalty', 'early_stopping'}
        return {name: value for name, value in used.items() if name not in unused}

    def _exit(self, config, heads):
        if self.min_exit_layer > config.num_decoder_layers:
            raise ValueError(f'min_exit_layer is {self.min_exit_layer}; the decoder has {config.num_decoder_layers} layers')
        if self.measure is None:
            return None
        kind = _measure(self.measure)
        if kind.head and kind.head not in (heads or {}):
            raise ValueError(
                f'measure {self.measure}: the checkpoint holds no {kind.head.replace("_", " ")}; train one (an '
                'exit classifier: `calm train --gin_file=runs/classifier.gin`), or use another measure'
            )
        fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        parts = {name: getattr(self, name) for name in ('alpha', 'emits') if self.contrasts}
        if self.pruning != 'none':
            if 'vocabulary' not in fields:
                raise ValueError(f'pruning is {self.pruning}, and measure {self.measure} looks at no vocabulary; leave one out')
            parts['vocabulary'] = self._vocabulary()
            parts['vocabulary'].check(config.sizes)
        try:
            measure = kind(**(heads[kind.head] if kind.head else {}), **parts, **_options(self.measure_options))
        except TypeError as error:
            raise ValueError(f'measure {self.measure} with options {self.measure_options!r}: {error}') from None
        form = FORMS[self.threshold_form]
        form = form() if self.threshold_form == 'constant' else form(self.decay_temperature)
        return Exit(measure, self.threshold, form, self.min_exit_layer)

    @property
    def contrasts(self) -> bool:
        """Whether the measure sets layers against each other."""
        return self.measure is not None and issubclass(_measure(self.measure), contrast.Contrast)

    def _vocabulary(self):
        if self.pruning == 'none':
            return None
        fixed = self.pruning == 'fixed'
        return Pruned(self.keep or (KEEP if fixed else 0), 0 if fixed else self.keep_least, self.min_exit_layer, self.partition)

    def _plan(self, config):
        kind, _, cost = self.plan.partition(':')
        if self.plan == 'full':
            return None
        if cost and kind != 'uniform':
            return _maker(self.plan, config)
        if kind != 'uniform' or not cost.isdigit() or not 1 <= int(cost) <= config.num_decoder_layers:
            raise ValueError(
                f'plan is {self.plan!r}; expected full, uniform:C with C from 1 to {config.num_decoder_layers} '
                'decoder layers, or package.module:function'
            )
        return Uniform(int(cost), config.num_decoder_layers, config.num_encoder_layers)


def _measure(name):
    """The class of a measure, by its name in MEASURES or by where it is."""
    if ':' not in name:
        known(name, MEASURES, 'measure')
        return MEASURES[name]
    kind = _imported(name, 'measure')
    lacks = [
        each for each in ('init', 'observe', 'flops', 'predicts', 'remembers', 'looks_ahead', 'head') if not hasattr(kind, each)
    ]
    if lacks or not isinstance(kind, type):
        raise ValueError(
            f'measure {name!r} is no class of measures: it lacks {", ".join(lacks) or "a class"}; see calm_jax.depth.confidence'
        )
    return kind


def _options(text):
    """{'k': 256, 'alpha': 0.1} of 'k=256,alpha=0.1'."""
    options = {}
    for part in filter(None, text.split(',')):
        name, equals, value = part.partition('=')
        try:
            options[name.strip()] = json.loads(value)
        except ValueError:
            equals = ''
        if not (name.strip().isidentifier() and equals):
            raise ValueError(f'measure_options is {text!r}; expected NAME=NUMBER, several with commas, as in k=256,alpha=0.1')
    return options


def _maker(path, config):
    """The plan maker that a function of the user's makes for this model."""
    try:
        maker = _imported(path, 'plan')(config)
    except TypeError as error:
        raise ValueError(f'plan {path!r} takes no TransformerConfig: {error}') from None
    if not callable(maker):
        raise ValueError(f'plan {path!r} gave {maker!r}; expected a function of example ids')
    return maker


def _imported(path, what):
    """What 'package.module:name' says. Raises ValueError when it cannot be imported."""
    module, _, name = path.partition(':')
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError, SyntaxError) as error:
        raise ValueError(
            f'{what} {path!r} cannot be imported ({error}); expected package.module:name of a module on PYTHONPATH'
        ) from None


def known(name, table, what):
    """Raises ValueError with the near match when `name` is not in the table."""
    if name not in table:
        raise ValueError(f'unknown {what} {name!r}; expected one of {_list(table)}{did_you_mean(name, table)}')


def _list(table):
    return ', '.join(table)
