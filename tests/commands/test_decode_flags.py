"""Flags of decoding: made of options, one's own included; what would change nothing is refused by the name of its flag."""

import argparse
import collections
import dataclasses
import importlib
import json
import sys
import types

import numpy as np
import pytest
from gin import config as gin_config

from calm_jax import options
from calm_jax.calibration import Certificate, Point, calibrate
from calm_jax.commands import decode_flags, option_flags, provenance
from calm_jax.decoding.choice import Beam, Greedy, Sampled
from calm_jax.decoding.codec import from_json, source_hash, to_json
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layout import Layout
from calm_jax.depth.confidence import Classifier
from calm_jax.depth.plans import Uniform
from calm_jax.types import Sizes

HEADS = {'exit_classifier': {'kernel': np.ones((16, 1), np.float32), 'bias': np.zeros(1, np.float32)}}


class Model:
    """What the flags need of a model: sizes, heads, and the defaults of its checkpoint."""

    task = None

    def __init__(self, generation=None, heads=None):
        self.config = types.SimpleNamespace(sizes=Sizes(layers=3, width=16, vocabulary=300, embedding=16))
        self.generation, self.heads = generation or {}, heads

    def resolve(self, decoding):
        source, new = decoding.limits.max_source_length or 512, decoding.limits.max_new_tokens or 128
        made = dataclasses.replace(decoding, limits=dataclasses.replace(decoding.limits, max_source_length=source))
        made = dataclasses.replace(made, limits=dataclasses.replace(made.limits, max_new_tokens=new))
        made.check(self.config.sizes)
        return made


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def parsed(*flags, threshold=True):
    parser = Parser(prog='calm')
    parser.add_argument('--output')
    decode_flags.add_decoding(parser, threshold)
    return parser.parse_args([*flags])


def made(*flags, model=None, threshold=True):
    return decode_flags.decoding_of(parsed(*flags, threshold=threshold), model or Model())


def document(*flags, **named):
    """The document that flags make, but for the limits."""
    written = to_json(made(*flags, **named))
    del written['limits']
    return written


def refusal(*flags, **named):
    with pytest.raises(ValueError) as error:
        made(*flags, **named)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal on which no help is wrapped."""
    monkeypatch.setenv('COLUMNS', '9999')


def helped(*flags):
    """The text of --help, spaces made single."""
    parser, shown = Parser(prog='calm'), []
    decode_flags.add_decoding(parser)
    parser.print_help = lambda: shown.append(' '.join(parser.format_help().split()))
    with pytest.raises(SystemExit):
        parser.parse_args([*flags, '--help'])
    return shown[0]


def test_every_option_that_a_text_can_stand_for_has_one_flag_and_its_help():
    table, text = option_flags.flags(Layout()), helped()
    of_options = collections.defaultdict(set)
    for place in options.walk(Decoding):
        if place.option.flag and not place.option.kind and not place.option.array:
            of_options[place.option.flag].add((options.owner(place.kind, place.field.name), place.full_path))
    assert set(of_options) == set(table)
    assert all(len(owners) == 1 for owners in of_options.values())
    for name, flag in table.items():
        assert f'--{name} {flag.option.metavar or name.upper()} {flag.option.help}' in text


def test_help_says_default_choices_and_whose_an_option_is():
    text = helped()
    for words in (
        '(default 0.1; of --measure weighted_contrast, divergent_contrast)',
        '(one of model, auto_contrastive, dola; default model; of --measure',
        '(default 256; of --vocabulary fixed)',
        '(one of constant, decaying, scaled_decaying; default constant)',
        'oracle, static, package.module:Class)',
        '(default 4; of --threshold_form decaying, scaled_decaying)',
        'sample from the K likeliest tokens (0: all) (default 0; with --temperature)',
        'beam search with K sequences (1: none) (default 1)',
    ):
        assert words in text


def test_no_flag_gives_full_depth_with_the_models_limits():
    assert made() == dataclasses.replace(
        Decoding(), limits=dataclasses.replace(Decoding().limits, max_source_length=512, max_new_tokens=128)
    )


@pytest.mark.parametrize(
    'flags, expected',
    [
        (
            '--measure weighted_contrast --threshold .5 --alpha .2 --emits dola --vocabulary decaying --keep_first 9 '
            '--keep_least 3 --partition full --pruning_layer 2 --threshold_form decaying --decay_temperature 2 '
            '--min_exit_layer 2 --propagation eager',
            {
                'exit': {
                    'measure': {
                        'class': 'weighted_contrast',
                        'alpha': 0.2,
                        'emits': 'dola',
                        'vocabulary': {
                            'class': 'decaying',
                            'keep_first': 9,
                            'keep_least': 3,
                            'partition': 'full',
                            'pruning_layer': 2,
                        },
                    },
                    'threshold': 0.5,
                    'form': {'class': 'decaying', 'temperature': 2.0},
                    'min_exit_layer': 2,
                },
                'propagation': {'class': 'eager'},
            },
        ),
        ('--threshold 1', {}),
        ('--temperature 0', {}),
        ('--num_beams 1', {}),
        ('--temperature .7 --top_k 5 --top_p .9 --seed 3', {
            'choice': {'class': 'sampled', 'temperature': 0.7, 'top_k': 5, 'top_p': 0.9}, 'seed': 3}),
        ('--temperature 1', {'choice': {'class': 'sampled'}}),
        ('--num_beams 4 --early_stopping NEVER', {'choice': {'class': 'beam', 'early_stopping': 'never'}}),
        ('--num_beams 3 --early_stopping true', {'choice': {'class': 'beam', 'size': 3, 'early_stopping': True}}),
        ('--num_beams 4 --early_stopping false', {'choice': {'class': 'beam'}}),
        ('--num_beams 1 --temperature .7', {'choice': {'class': 'sampled', 'temperature': 0.7}}),
        ('--plan uniform:2', {'plan': {'class': 'uniform', 'share': 2 / 3}}),
        ('--plan uniform:.5', {'plan': {'class': 'uniform', 'share': 0.5}}),
        ('--plan uniform --uniform_share .5', {'plan': {'class': 'uniform', 'share': 0.5}}),
        ('--plan random:2 --seed 3', {'plan': {'class': 'random', 'share': 2 / 3}, 'seed': 3}),
        ('--plan random:.5 --random_first false', {'plan': {'class': 'random', 'share': 0.5, 'first': False}}),
        ('--plan random --random_share .5', {'plan': {'class': 'random', 'share': 0.5}}),
        ('--plan layers:1,3', {'plan': {'class': 'layers', 'layers': [1, 3]}}),
        ('--plan layers:3,1 --layers_share .9', {'plan': {'class': 'layers', 'layers': [3, 1], 'share': 0.9}}),
        ('--min_new_tokens 2 --forced_first_id 3', {'rules': {'min_new_tokens': 2, 'forced_first_id': 3}}),
    ],
)  # fmt: skip
def test_flags_make_a_decoding(flags, expected):
    assert document(*flags.split()) == expected


def test_the_classifier_takes_the_checkpoints_head_and_needs_one():
    decoding = made('--measure', 'classifier', '--threshold', '0.5', model=Model(heads=HEADS))
    assert isinstance(decoding.exit.measure, Classifier) and decoding.exit.measure.kernel is HEADS['exit_classifier']['kernel']
    assert 'the checkpoint holds no exit classifier; train one' in refusal('--measure', 'classifier', '--threshold', '0.5')


def test_controllers_take_a_seed_where_they_draw():
    head = {'inputs': np.ones(4), 'kernel': np.ones((3, 16, 1)), 'bias': np.zeros((3, 1))}
    model = Model(heads={'controllers': head})
    drawn = made('--gate', 'controllers:.5', '--controllers_drawn', 'true', '--seed', '3', model=model)
    assert drawn.gate.drawn and drawn.seed == 3
    assert '--seed changes nothing' in refusal('--gate', 'controllers:.5', '--seed', '3', model=model)


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--top_k 5', '--top_k changes nothing without --temperature'),
        ('--top_p .5', '--top_p changes nothing without --temperature'),
        ('--top_k 0', '--top_k changes nothing without --temperature'),
        ('--temperature 0 --top_k 3', '--top_k changes nothing without --temperature'),
        ('--seed 1', '--seed changes nothing without --temperature'),
        ('--seed 1 --plan uniform:2', '--seed changes nothing without --temperature'),
        ('--length_penalty 2', '--length_penalty changes nothing without --num_beams'),
        ('--early_stopping never', '--early_stopping changes nothing without --num_beams'),
        ('--min_exit_layer 2', '--min_exit_layer changes nothing without --measure'),
        ('--propagation eager', '--propagation changes nothing without --measure'),
        ('--threshold_form decaying', '--threshold_form changes nothing without --measure'),
        ('--decay_temperature 2', '--decay_temperature changes nothing without --measure'),
        ('--alpha .2', '--alpha changes nothing without --measure'),
        ('--keep 3', '--keep changes nothing without --measure'),
        ('--vocabulary fixed', '--vocabulary changes nothing without --measure'),
        ('--uniform_share .5', '--uniform_share changes nothing without --plan'),
        (
            '--measure softmax_gap --threshold .5 --alpha .2',
            '--alpha belongs to weighted_contrast, divergent_contrast; --measure is softmax_gap',
        ),
        ('--measure softmax_gap --threshold .5 --keep 3', '--keep belongs to fixed; --vocabulary is whole'),
        (
            '--measure state --threshold .5 --keep 3',
            '--keep belongs to softmax_gap, softmax_max, weighted_contrast, divergent_contrast, oracle; --measure is state',
        ),
        (
            '--measure state --threshold .5 --vocabulary fixed',
            '--vocabulary belongs to softmax_gap, softmax_max, weighted_contrast, divergent_contrast, oracle; --measure is',
        ),
        (
            '--measure state --threshold .5 --decay_temperature 2',
            '--decay_temperature belongs to decaying, scaled_decaying; --threshold_form is constant',
        ),
        ('--threshold .5', 'threshold is 0.5 without a measure; name one of softmax_gap, '),
        ('--threshold 1 --min_exit_layer 2', '--min_exit_layer changes nothing without --measure'),
        ('--measure state', '--measure state without --threshold would decode at full depth; say λ'),
        ('--num_beams 4 --temperature .7', '--temperature 0.7 and --num_beams 4 exclude each other'),
        ('--num_beams 4 --measure state --threshold .5', 'beam search with an exit'),
        ('--measure state --threshold .5 --min_exit_layer 9', 'min_exit_layer is 9; the decoder has 3 layers'),
        ('--measure softmax_gap --threshold .5 --vocabulary fixed --keep 301', 'the vocabulary has 300'),
        ('--measure softmax_gap --threshold .5 --vocabulary fixed --pruning_layer 4', 'the decoder has 3 layers'),
        ('--measure state --threshold 1.5', 'exit.threshold is 1.5; expected λ in [0, 1]'),
        ('--measure state --threshold nan', 'exit.threshold is nan; expected a finite number'),
        ('--max_new_tokens 0', 'max_new_tokens is 0; expected 1 or more'),
        ('--temperature -1', 'temperature is -1.0; expected a positive number'),
        ('--top_p 7 --temperature 1', 'choice.top_p is 7.0'),
        ('--seed -1 --temperature 1', 'seed is -1'),
        ('--plan uniform:4.5', 'C from 1 to 3'),
        ('--plan uniform:4', 'C from 1 to 3'),
        ('--plan uniform:-1', 'C from 1 to 3'),
        ('--plan random', '--plan random would run everything; say how much, as in random:4'),
        ('--plan random:4', "plan is 'random:4'; expected random:C with C from 1 to 3"),
        ('--plan random:2 --random_share .5', '--plan random:2 and share both say how much'),
        ('--plan uniform:2 --random_first false', '--random_first belongs to random; --plan is uniform'),
        ('--plan layers', 'plan.layers names none; expected decoder layers, counted from 1, as in layers:1,5,9'),
        ('--plan layers:', 'expected decoder layers from 1 to 3, each once'),
        ('--plan layers:1,4', 'expected decoder layers from 1 to 3, each once'),
        ('--plan layers:2,2', 'expected decoder layers from 1 to 3, each once'),
        ('--plan layers:1 --seed 2', '--seed changes nothing without --temperature'),
        ('--measure clasifier', 'did you mean classifier?'),
        ('--measure softmax_gap:3', 'softmax_gap takes nothing after a colon'),
        ('--plan policy:1.5', 'from 0 to 1'),
        ('--plan policy:much', 'from 0 to 1'),
        ('--gate controllers:-.1', 'from 0 to 1'),
        ('--gate random', "unknown 'random'; expected one of controllers, package.module:Class"),
        ('--vocabulary fxied', 'did you mean fixed?'),
        ('--emits dolla', 'did you mean dola?'),
        ('--early_stopping always', "'always'; expected true, false or never"),
        ('--keep many', "'many'; expected a whole number"),
        ('--alpha much', "'much'; expected a number"),
        ('--vocabulary mine:Vocabulary', "unknown 'mine:Vocabulary'; expected one of whole, frequent, fixed, decaying"),
        ('--measure', 'expected one argument'),
        ('--gin_file', 'expected one argument'),
    ],
)
def test_a_flag_that_cannot_be_or_would_change_nothing_is_refused(flags, message):
    assert message in refusal(*flags.split())


def test_a_command_that_chooses_the_threshold_has_no_flag_for_it():
    assert document('--measure', 'state', threshold=False) == {'exit': {'measure': {'class': 'state'}}}
    assert 'threshold' not in parsed(threshold=False).decode_flags.flags


BEAMS = {
    'limits': {'max_new_tokens': 9},
    'choice': {'class': 'beam', 'size': 3, 'length_penalty': 2.0},
    'rules': {'no_repeat_ngram_size': 3},
}


@pytest.mark.parametrize(
    'flags, choice',
    [
        ('', Beam(3, 2.0)),
        ('--num_beams 5', Beam(5, 2.0)),
        ('--length_penalty 1', Beam(3, 1.0)),
        ('--gin.Beam.early_stopping=True', Beam(3, 2.0, True)),
        ('--temperature 0', Beam(3, 2.0)),
        ('--num_beams 1', Greedy()),
        ('--temperature .5', Sampled(0.5)),
        ('--measure state --threshold .5', Greedy()),
        ('--plan uniform:2', Beam(3, 2.0)),
    ],
)
def test_a_checkpoints_defaults_stand_under_what_is_said(flags, choice):
    decoding = made(*flags.split(), model=Model(BEAMS))
    assert decoding.choice == choice and decoding.rules.no_repeat_ngram_size == 3
    assert decoding.limits.max_new_tokens == 9 and decoding.limits.max_source_length == 512


def test_new_tokens_that_are_said_replace_a_checkpoints_whole_lengths():
    model = Model({'limits': {'max_length': 50}, 'rules': {'min_length': 20, 'repetition_penalty': 1.2}})
    assert made(model=model).limits.max_length == 50 and made(model=model).rules.min_length == 20
    decoding = made('--max_new_tokens', '5', '--min_new_tokens', '2', model=model)
    assert (decoding.limits.max_new_tokens, decoding.limits.max_length) == (5, None)
    assert (decoding.rules.min_new_tokens, decoding.rules.min_length) == (2, 0)
    assert decoding.rules.repetition_penalty == 1.2


@pytest.mark.parametrize(
    'flags, choice',
    [
        ('', Sampled(top_k=50)),
        ('--temperature 0', Greedy()),
        ('--min_p .1', Sampled(top_k=50, min_p=0.1)),
        ('--num_beams 2', Beam(2)),
    ],
)
def test_a_checkpoint_that_draws_is_told_otherwise(flags, choice):
    assert made(*flags.split(), model=Model({'choice': {'class': 'sampled', 'top_k': 50}})).choice == choice


@pytest.mark.parametrize(
    'flags, where, value',
    [
        (['--suppress_tokens', '64,65'], ('rules', 'suppress_tokens'), [64, 65]),
        (['--suppress_tokens', '64'], ('rules', 'suppress_tokens'), [64]),
        (['--bad_words_ids', '[12, 64], [65]'], ('rules', 'bad_words_ids'), [[12, 64], [65]]),
        (['--sequence_bias', '[[[12, 64], -10]]'], ('rules', 'sequence_bias'), [[[12, 64], -10.0]]),
        (['--exponential_decay_length_penalty', '20,1.1'], ('rules', 'exponential_decay_length_penalty'), [20, 1.1]),
        (['--remove_invalid_values', 'true'], ('rules', 'remove_invalid_values'), True),
        (['--gin.Rules.suppress_tokens=[64]'], ('rules', 'suppress_tokens'), [64]),
        (['--stop', 'END'], ('limits', 'stop_strings'), ['END']),
        (['--stop', '["\\n", "Q:"]'], ('limits', 'stop_strings'), ['\n', 'Q:']),
    ],
)
def test_lists_are_said_by_flags(flags, where, value):
    part, name = where
    assert to_json(made(*flags))[part][name] == value


def test_a_default_that_is_said_counts_against_a_checkpoints():
    for flags in (['--no_repeat_ngram_size', '0'], ['--gin.Rules.no_repeat_ngram_size=0']):
        assert made(*flags, model=Model(BEAMS)).rules.no_repeat_ngram_size == 0
    message = refusal('--length_penalty', '3', '--measure', 'state', '--threshold', '.4', model=Model(BEAMS))
    assert message == '--length_penalty changes nothing without --num_beams'


@pytest.mark.parametrize('name, measure', [('softmax', 'softmax_gap'), ('state', 'state'), ('classifier', 'classifier')])
def test_the_gin_files_of_the_library_choose_an_exit(name, measure):
    exit = document('--gin_file', f'depth/{name}.gin', '--threshold', '.5', model=Model(heads=HEADS))['exit']
    assert exit['measure']['class'] == measure and exit['threshold'] == 0.5
    assert exit.get('form') == (None if name == 'state' else {'class': 'decaying'})


@pytest.mark.parametrize(
    'flags, expected',
    [
        ('--gin.Sampled.temperature=0.5', {'choice': {'class': 'sampled', 'temperature': 0.5}}),
        ('--gin.Sampled.temperature=0.5 --temperature 0', {}),
        ('--gin.Sampled.temperature=0.5 --num_beams 3', {'choice': {'class': 'beam', 'size': 3}}),
        ('--gin.Decoding.choice=@Beam()', {'choice': {'class': 'beam'}}),
        ('--gin.Decoding.plan=@Uniform() --gin.Uniform.share=0.5', {'plan': {'class': 'uniform', 'share': 0.5}}),
        ('--gin.Decoding.seed=3 --temperature .5', {'choice': {'class': 'sampled', 'temperature': 0.5}, 'seed': 3}),
        (
            '--gin_file depth/softmax.gin --measure state --threshold .5 --decay_temperature 2',
            {'exit': {'measure': {'class': 'state'}, 'threshold': 0.5, 'form': {'class': 'decaying', 'temperature': 2.0}}},
        ),
        (
            '--gin.WeightedContrast.alpha=0.2 --gin.Exit.threshold=0.5 --measure weighted_contrast',
            {'exit': {'measure': {'class': 'weighted_contrast', 'alpha': 0.2}, 'threshold': 0.5}},
        ),
        (
            '--gin.Exit.measure=@SoftmaxGap() --gin.SoftmaxGap.vocabulary=@FixedPruning() --gin.FixedPruning.keep=9 '
            '--threshold .5 --keep 7',
            {'exit': {'measure': {'class': 'softmax_gap', 'vocabulary': {'class': 'fixed', 'keep': 7}}, 'threshold': 0.5}},
        ),
    ],
)
def test_gin_binds_the_same_classes_and_flags_win(flags, expected):
    assert document(*flags.split()) == expected


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--gin.WeightedContrast.alpha=0.2', 'alpha, which gin binds, changes nothing: no measure is chosen'),
        (
            '--gin.WeightedContrast.alpha=0.2 --measure divergent_contrast --threshold .5',
            'WeightedContrast.alpha, which gin binds, changes nothing: measure is divergent_contrast',
        ),
        ('--gin.Beam.length_penalty=2', '--length_penalty changes nothing without --num_beams'),
        ('--gin.Exit.threshold=0.5', 'threshold is 0.5 without a measure'),
        ('--gin_file depth/softmax.gin --gin.Decoding.exit=None', 'Exit.measure, which gin binds, changes nothing'),
        ("--gin.Exit.threshold='a' --measure state", "Exit.threshold is 'a'; expected a number"),
        ('--gin.Exit.measure=@FixedPruning()', 'Exit.measure is @FixedPruning(); expected @SoftmaxGap() or '),
        ('--gin.Exit.measure=@SoftmaxGap', 'Exit.measure is @SoftmaxGap; expected @SoftmaxGap() or '),
        ('--gin.Exit.treshold=0.5', 'Exit has no treshold; did you mean threshold?'),
        ('--gin.Decoding.exit=@Exit()', 'exit.measure is missing'),
    ],
)  # fmt: skip
def test_what_gin_cannot_mean_is_refused(flags, message):
    assert message in refusal(*flags.split())


MINE = """
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.gates import Gate
from calm_jax.depth.plans import PlanMaker
from calm_jax.options import option
from calm_jax.pytrees import pytree

@pytree
class Mine(StaticDepth):
    gain: float = option('how much of it', default=0.5, metavar='G')
    steps: int = 2

@pytree
class Yours(StaticDepth):
    gain: float = option('of another', default=0.5)

@pytree
class Sometimes(Gate):
    often: float = option('how often a layer runs', default=0.5)

@pytree
class Half(PlanMaker):
    first: bool = option('the first half', default=True)

@pytree
class Keeps(StaticDepth):
    keep: int = option('how many', default=2)

@pytree
class Writes(StaticDepth):
    output: str = option('where', default='')

class Bare(StaticDepth):
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's."""
    (tmp_path / 'my_decisions.py').write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module('my_decisions')
    del sys.modules['my_decisions']


def test_an_option_that_is_said_once_is_in_help_flags_gin_and_the_document(mine):
    chosen = ['--measure', 'my_decisions:Mine', '--threshold', '0.5']
    assert '--gain G how much of it (default 0.5; of --measure my_decisions:Mine)' in helped(*chosen)
    for said in (['--gain', '0.75'], ['--gain=0.75'], ['--gin.Mine.gain=0.75'], ['--gin.Mine.gain=2', '--gain', '0.75']):
        decoding = made(*chosen, *said)
        assert type(decoding.exit.measure) is mine.Mine and decoding.exit.measure.gain == 0.75
        assert to_json(decoding)['exit']['measure'] == {
            'class': 'my_decisions:Mine',
            'source': source_hash(mine.Mine),
            'gain': 0.75,
        }
    certificate = calibrate([[0.0]] * 50, [Point(to_json(decoding), 0.5)], 0.5, 0.05)
    certified = Certificate.from_json(certificate.to_json()).decoding
    assert certified == to_json(decoding) and from_json(certified, classes=[mine.Mine]) == decoding
    assert 'gain' not in to_json(made(*chosen))['exit']['measure']
    assert '--gain' not in helped() and '--gain' in refusal('--gain', '0.75')


def test_gates_and_plans_of_ones_own_bring_their_flags_and_may_draw(mine):
    decoding = made(
        '--gate', 'my_decisions:Sometimes', '--often', '.25', '--plan=my_decisions:Half', '--first', 'false', '--seed', '3'
    )
    assert type(decoding.gate) is mine.Sometimes and decoding.gate.often == 0.25
    assert type(decoding.plan) is mine.Half and decoding.plan.first is False and decoding.seed == 3


def test_a_class_that_gin_registers_brings_its_flags_too(mine, tmp_path):
    (tmp_path / 'registers.py').write_text(
        'import gin\nimport my_decisions\ngin.external_configurable(my_decisions.Mine, module="my_decisions")\n'
    )
    (tmp_path / 'mine.gin').write_text('import registers\nExit.measure = @my_decisions.Mine()\nExit.threshold = 0.5\n')
    try:
        decoding = made('--gin_file', str(tmp_path / 'mine.gin'), '--gain', '0.75')
        assert type(decoding.exit.measure) is mine.Mine and decoding.exit.measure.gain == 0.75
    finally:
        sys.modules.pop('registers', None)
        gin_config._REGISTRY.pop(gin_config._INVERSE_REGISTRY.pop(mine.Mine).selector)


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--measure my_decisions:Theirs', 'cannot be imported'),
        ('--measure my_decisions.nowhere:Mine', 'cannot be imported'),
        ('--measure nowhere:Mine', 'cannot be imported (No module named'),
        ('--measure :Mine', 'cannot be imported'),
        ('--measure os:getcwd', 'is no subclass of calm_jax.depth.confidence.Measure'),
        ('--plan my_decisions:Mine', 'is no subclass of calm_jax.depth.plans.PlanMaker'),
        ('--measure my_decisions:Bare', 'is no pytree; put @calm_jax.pytrees.pytree above the class'),
        ('--measure my_decisions:Keeps', '--keep is an option of FixedPruning (exit.measure.vocabulary.keep) and of Keeps'),
        ('--measure my_decisions:Writes', '--output is an option of Writes (exit.measure.output) and a flag of the command'),
        ('--measure my_decisions:Mine --threshold .5 --alpha .1', '--measure is my_decisions:Mine'),
        ('--measure my_decisions:Mine --threshold .5 --gain much', "'much'; expected a number"),
    ],
)
def test_a_class_that_cannot_be_taken_is_refused_in_one_line(mine, flags, message):
    assert message in refusal(*flags.split())


def test_a_sub_command_takes_flags_of_classes_of_ones_own(mine):
    parser = Parser(prog='calm')
    sub = parser.add_subparsers(dest='command').add_parser('generate')
    decode_flags.add_decoding(sub)
    args, unknown = parser.parse_known_args(
        ['generate', '--measure', 'my_decisions:Mine', '--threshold', '.5', '--gain', '.75']
    )
    assert unknown == [] and decode_flags.decoding_of(args, Model()).exit.measure.gain == 0.75
    again = parser.parse_args(['generate', '--measure', 'my_decisions:Mine', '--threshold', '.5', '--gain', '.25'])
    assert decode_flags.decoding_of(again, Model()).exit.measure.gain == 0.25


def test_a_class_that_comes_along_may_be_named_by_where_it_is():
    assert document(
        '--measure', 'calm_jax.depth.confidence:SoftmaxGap', '--threshold', '.5', '--vocabulary', 'fixed'
    ) == document('--measure', 'softmax_gap', '--threshold', '.5', '--vocabulary', 'fixed')


def test_two_owners_of_one_flag_are_refused(monkeypatch):
    taken = dataclasses.fields(Uniform)[0]
    options.options.cache_clear()  # what was read of the class before, and below what is read here
    with monkeypatch.context() as patched:
        patched.setattr(taken, 'metadata', {options.KEY: dataclasses.replace(options.of(taken), flag='keep')})
        with pytest.raises(ValueError, match='--keep is an option of FixedPruning .* and of Uniform'):
            option_flags.flags(Layout())
    options.options.cache_clear()


def test_two_measures_that_each_define_an_option_do_not_share_its_flag(mine):
    with pytest.raises(ValueError, match='--gain is an option of Mine .* and of Yours'):
        option_flags.flags(Layout([mine.Mine, mine.Yours]))


def test_what_is_said_otherwise_than_a_document_is_named_by_its_flag():
    sizes = Model().config.sizes
    recorded = document('--measure', 'softmax_gap', '--threshold', '.5', '--vocabulary', 'fixed', '--plan', 'uniform:2')

    def differences(*flags):
        return list(decode_flags.otherwise(parsed(*flags), recorded, sizes))

    assert differences() == differences('--measure', 'softmax_gap', '--vocabulary', 'fixed', '--plan', 'uniform:2') == []
    assert differences('--keep', '256', '--temperature', '0', '--num_beams', '1', '--propagation', 'lazy') == []
    assert differences('--threshold_form', 'constant', '--min_exit_layer', '1', '--seed', '0') == []
    assert differences('--keep', '64') == [('keep', 64, 256)]
    assert differences('--measure', 'state') == [('measure', 'state', 'softmax_gap')]
    assert differences('--temperature', '.5') == [('temperature', 0.5, 0.0), ('choice', 'sampled', 'greedy')]
    assert differences('--plan', 'uniform:1') == [('uniform_share', 1 / 3, 2 / 3)]
    assert differences('--vocabulary', 'whole', '--max_new_tokens', '5') == [
        ('max_new_tokens', 5, None),
        ('vocabulary', 'whole', 'fixed'),
    ]


def test_what_was_said_is_json(mine):
    said = decode_flags.given(
        parsed('--measure', 'my_decisions:Mine', '--gain', '.5', '--plan', 'uniform:2', '--temperature', '0')
    )
    assert json.loads(json.dumps(said)) == said
    assert said['exit']['measure']['gain'] == 0.5 and said['plan'] == {'class': 'uniform', 'of': '2'}


def test_flags_of_decoding_are_typed_again_as_they_are_read(mine):
    flags = ['--num_beams', '3', '--early_stopping', 'false', '--plan', 'my_decisions:Half', '--first', 'true']
    again = provenance.typed('generate', parsed(*flags)).split()[2:]
    assert made(*again) == made(*flags) and set(again) == set(flags)
