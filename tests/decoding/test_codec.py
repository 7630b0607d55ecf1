"""Decoding documents: what is written is read, to the bit; what is wrong is said in one line; nothing is imported."""

import dataclasses
import importlib
import itertools
import json
import math
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import options
from calm_jax.checks import check_types
from calm_jax.decoding.choice import Beam, Greedy, Sampled
from calm_jax.decoding.codec import check_heads, describe, digest, from_json, source_hash, to_json
from calm_jax.decoding.decoding import CHOICES, Decoding, Limits
from calm_jax.decoding.propagation import Eager, Lazy
from calm_jax.decoding.rules import Rules
from calm_jax.depth.confidence import Classifier, Measure, SoftmaxGap, StateSimilarity
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.exits import MEASURES, Exit
from calm_jax.depth.gates import ScriptedGate
from calm_jax.depth.plans import Uniform
from calm_jax.depth.prompt_controller import PromptController
from calm_jax.depth.thresholds import Decaying
from calm_jax.depth.vocabulary import DecayingPruning, FixedPruning, FrequentIds, Vocabulary, Whole
from calm_jax.options import array, option
from calm_jax.pytrees import pytree

HEADS = {
    'exit_classifier': {'kernel': np.ones((16, 1), np.float32), 'bias': np.zeros(1, np.float32)},
    'frequent_ids': {'ids': np.arange(9, dtype=np.int32)},
    'policy': {name: np.ones(1, np.float32) for name in ('scale', 'shift', 'hidden_kernel', 'hidden_bias', 'kernel', 'bias')},
    'prompt_controller': {name: np.ones(1, np.float32) for name in ('runs', 'mean', 'scale', 'kernel', 'bias')},
    'exit_adapters': {name: np.ones(1, np.float32) for name in ('scale', 'bias', 'kernel', 'down', 'up')},
    'controllers': {name: np.ones(1, np.float32) for name in ('inputs', 'kernel', 'bias', 'hidden_kernel', 'hidden_bias')},
}


LISTED = {
    tuple[str, ...]: ('.', 'END'),
    tuple[str, ...] | None: ('decoder',),
    tuple[int, ...]: (3, 5),
    tuple[float, ...]: (3, 1.5),
    tuple[tuple[int, ...], ...]: ((3, 4), (5,)),
    tuple[tuple[tuple[int, ...], float], ...]: (((3, 4), 1.5), ((5,), -2.0)),
}


def away(kind, wanted):
    """A value of a dataclass with every option away from its default; where one of several classes is held, `wanted` if it is
    one of them."""
    candidates = {}
    for field, each in options.options(kind):
        default, hint = field.default, options.annotations(kind)[field.name]
        if each.array:
            values = [HEADS[kind.head][field.name]]
        elif each.kind:
            values = [away(each.kind, wanted)]
        elif each.kinds is not None:
            held = list(each.kinds.values())
            held = [wanted] if wanted in held else [one for one in held if one is not type(default)][-1:]
            held = [SoftmaxGap] if each.kinds is MEASURES and issubclass(wanted, Vocabulary) else held
            held = [Sampled] if each.kinds is CHOICES and wanted not in CHOICES.values() else held
            values = [away(one, wanted) for one in held] or [None]
        elif each.choices:
            values = [one for one in each.choices if one != default]
        elif hint is int or hint == int | None:
            values = [(default or 0) + 3, 2]
        elif hint is float:
            values = [default / 2 + 0.2331]
        elif hint is bool:
            values = [not default]
        elif hint in LISTED:
            values = [LISTED[hint]]
        else:
            values = ['never']
        candidates[field.name] = values
    if kind is Decoding and wanted is Beam:
        candidates.update(exit=[None], gate=[None], limits=[Limits(5, 4, 7)])
    if kind is Exit and wanted is not Exit:
        candidates.update(verify=[0])  # drafts go with few other things
    if kind is Decoding and wanted is Exit:
        candidates.update(gate=[None], plan=[None], propagation=[Lazy(3)], limits=[Limits(5, 4, 7)])
    if kind is Decoding and wanted is PromptController:
        candidates.update(plan_prompt=['full'])
    for values in itertools.product(*candidates.values()):
        try:
            return kind(**dict(zip(candidates, values)))
        except ValueError:
            continue
    raise AssertionError(f'no {kind.__name__} away from its defaults')


def same(one, other):
    """Whether two decodings are of the same classes and the same numbers, arrays included."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(np.array_equal(a, b) for a, b in zip(leaves, others, strict=True))


def nodes(document):
    yield document
    for value in document.values():
        if isinstance(value, dict):
            yield from nodes(value)


@pytest.mark.parametrize('kind', options.classes(Decoding), ids=lambda kind: kind.__name__)
def test_every_class_with_every_option_away_from_its_default_is_read_as_it_was_written(kind):
    decoding = away(Decoding, kind)
    document = to_json(decoding)
    again = from_json(json.loads(json.dumps(document)), heads=HEADS)
    assert same(again, decoding)
    assert to_json(again) == document and digest(to_json(again)) == digest(document)
    names = {field.name for field, each in options.options(kind) if each.kinds != {}}  # no gate comes along
    assert any(names <= set(node) for node in nodes(document))


def test_defaults_are_left_out_wherever_they_stand():
    assert to_json(Decoding()) == {}
    spelled = Decoding(Limits(None), Exit(SoftmaxGap(Whole()), 1.0), rules=Rules(0, 0, -1, -1), choice=Greedy(), seed=0)
    assert to_json(spelled) == {'exit': {'measure': {'class': 'softmax_gap'}}}
    assert from_json({}) == Decoding() and from_json(to_json(spelled)) == spelled


def test_a_document_of_before_an_option_reads_as_its_default_and_is_written_as_it_was(monkeypatch):
    @pytree
    class SoftmaxGapOfLater(SoftmaxGap):
        power: float = option(default=2.0)

    document = {'exit': {'measure': {'class': 'softmax_gap'}, 'threshold': 0.5}}
    before = to_json(from_json(document))
    monkeypatch.setitem(options.of(Exit.__dataclass_fields__['measure']).kinds, 'softmax_gap', SoftmaxGapOfLater)
    later = from_json(document)
    assert later.exit.measure.power == 2.0
    assert to_json(later) == document == before


@pytest.mark.parametrize('number', [0.1, 1 / 3, 5e-324, math.nextafter(1.0, 0.0), 0.30000000000000004, 1e-7])
def test_numbers_are_exact_through_json(number):
    decoding = Decoding(exit=Exit(SoftmaxGap(), number))
    read = from_json(json.loads(json.dumps(to_json(decoding)))).exit.threshold
    assert struct.pack('<d', read) == struct.pack('<d', number)


@pytest.mark.parametrize('scalar', [np.float32(0.7), np.float64(0.7), np.array(0.7), jnp.float32(0.7), jnp.bfloat16(0.7)])
def test_scalars_of_numpy_and_jax_are_numbers(scalar):
    document = to_json(Decoding(exit=Exit(StateSimilarity(), scalar), rules=Rules(np.int64(3)), seed=jnp.uint32(7)))
    assert document['exit']['threshold'] == float(scalar) and type(document['exit']['threshold']) is float
    assert document['rules'] == {'no_repeat_ngram_size': 3} and type(document['seed']) is int
    json.dumps(document)


def test_a_whole_number_where_any_is_taken_is_the_same_setting():
    one, other = (Decoding(exit=Exit(SoftmaxGap(), number)) for number in (0, 0.0))
    assert digest(to_json(one)) == digest(to_json(other))
    assert type(from_json({'choice': {'class': 'sampled', 'temperature': 2}}).choice.temperature) is float


def test_true_false_never_and_none_keep_their_kind():
    for value in (True, 'never'):
        document = to_json(Decoding(choice=Beam(early_stopping=value)))
        assert document == {'choice': {'class': 'beam', 'early_stopping': value}}
        assert from_json(document).choice.early_stopping is value
    assert to_json(Decoding(choice=Beam(early_stopping=False))) == {'choice': {'class': 'beam'}}
    assert from_json({'gate': None, 'exit': None, 'limits': {'max_new_tokens': None}}) == Decoding()


def test_the_digest_is_of_content_and_not_of_order_or_spelling():
    one = {'seed': 3, 'exit': {'threshold': 0.5, 'measure': {'class': 'state'}}}
    other = json.loads('{"exit": {"measure": {"class": "state"}, "threshold": 5e-1},  "seed": 3}')
    assert digest(one) == digest(other) != digest({**one, 'seed': 4})
    assert digest({}) == '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'  # SHA-256 of {}


@pytest.mark.parametrize(
    'document, message',
    [
        ({'exits': {}}, "exits: Decoding has no option 'exits'; did you mean exit?"),
        ({'exit': {'threshold': 0.5}}, 'exit.measure is missing; expected one of softmax_gap, '),
        ({'exit': {'measure': {'class': 'softmx_gap'}}}, 'did you mean softmax_gap?'),
        ({'exit': {'measure': 'softmax_gap'}}, "exit.measure is 'softmax_gap'; expected a JSON object"),
        ({'exit': {'measure': {'vocabulary': {}}}}, 'exit.measure names no class'),
        ({'exit': {'measure': {'class': ['state']}}}, 'exit.measure names no class'),
        ({'exit': {'measure': {'class': 'state', 'alpha': 0.1}}}, 'exit.measure.alpha: StateSimilarity has no option'),
        ({'exit': {'measure': {'class': 'state', 'source': 'ab'}}}, 'exit.measure.source: StateSimilarity has no option'),
        (
            {'exit': {'measure': {'class': 'softmax_gap', 'vocabulary': {'class': 'fixed', 'keep': -1}}}},
            'exit.measure.vocabulary.keep is -1; expected',
        ),
        (
            {'exit': {'measure': {'class': 'softmax_gap', 'vocabulary': {'class': 'fixed', 'keep': 64.0}}}},
            'exit.measure.vocabulary.keep is 64.0; expected a whole number',
        ),
        ({'exit': {'measure': {'class': 'state'}, 'threshold': '0.5'}}, "exit.threshold is '0.5'; expected a number"),
        ({'exit': {'measure': {'class': 'state'}, 'threshold': True}}, 'exit.threshold is True; expected a number'),
        ({'exit': {'measure': {'class': 'state'}, 'threshold': math.nan}}, 'exit.threshold is nan; expected a finite number'),
        ({'exit': {'measure': {'class': 'state'}, 'threshold': 1.5}}, 'exit.threshold is 1.5; expected λ in [0, 1]'),
        ({'exit': {'measure': {'class': 'weighted_contrast', 'emits': 'dolla'}}}, 'did you mean dola?'),
        ({'limits': None}, 'limits is None; expected a JSON object'),
        ({'limits': {'max_new_tokens': 0}}, 'limits.max_new_tokens is 0; expected 1 or more'),
        ({'limits': {'max_new_tokens': [1]}}, 'limits.max_new_tokens is [1]; expected a whole number or None'),
        ({'rules': {'min_new_tokens': None}}, 'rules.min_new_tokens is None; expected a whole number'),
        ({'choice': {'class': 'beam', 'size': 0}}, 'choice: num_beams is 0; expected 1 or more'),
        ({'choice': {'class': 'beam', 'early_stopping': 'always'}}, "choice.early_stopping is 'always'; expected"),
        ({'choice': {'class': 'beam'}, 'exit': {'measure': {'class': 'state'}}}, 'beam search with an exit'),
        ({'seed': 1.5}, 'seed is 1.5; expected a whole number'),
        ({'seed': -1}, 'seed is -1; expected'),
        ({'class': 'greedy'}, "class: Decoding has no option 'class'"),
        ([], 'a decoding document is []; expected a JSON object'),
    ],
)
def test_what_a_document_cannot_be_is_said_in_one_line_with_its_place(document, message):
    with pytest.raises(ValueError) as error:
        from_json(document, heads=HEADS)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'decoding, message',
    [
        (Decoding(exit=Exit(StateSimilarity(), np.array([0.5, 0.6]))), 'exit.threshold is an array of shape (2,)'),
        (Decoding(gate=ScriptedGate(jnp.ones((1, 3), bool))), 'gate.runs is an array of shape (1, 3)'),
        (Decoding(choice=Beam(length_penalty=math.inf)), 'choice.length_penalty is inf; expected a finite number'),
        (Decoding(choice=Sampled('hot')), "choice.temperature is 'hot'; expected a number"),
    ],
)
def test_what_json_does_not_hold_is_not_written(decoding, message):
    with pytest.raises(ValueError) as error:
        to_json(decoding)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_trained_arrays_are_the_checkpoints():
    classifier = Classifier(**HEADS['exit_classifier'])
    document = to_json(Decoding(exit=Exit(classifier, 0.5)))
    assert document['exit']['measure'] == {
        'class': 'classifier',
        'kernel': {'head': 'exit_classifier'},
        'bias': {'head': 'exit_classifier'},
    }
    read = from_json(document, heads=HEADS).exit.measure
    assert read.kernel is HEADS['exit_classifier']['kernel'] and read.bias is HEADS['exit_classifier']['bias']
    short = {'exit': {'measure': {'class': 'classifier'}, 'threshold': 0.5}}
    assert from_json(short, heads=HEADS).exit.measure.kernel is read.kernel
    for heads, message in (
        (None, 'exit.measure.kernel: the checkpoint holds no exit classifier; train one'),
        ({'exit_classifier': {'kernel': read.kernel}}, 'the head exit_classifier of the checkpoint holds no bias, only kernel'),
    ):
        with pytest.raises(ValueError, match=message):
            from_json(document, heads=heads)


MINE = """
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.exits import Exit
from calm_jax.depth.vocabulary import Whole
from calm_jax.options import option
from calm_jax.pytrees import pytree

@pytree
class Mine(StaticDepth):
    gain: float = option(default=0.5)
    plain: int = 2

@pytree
class All(Whole):
    pass

@pytree(static=('min_exit_layer',))
class Late(Exit):
    after: int = option(default=2)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user's, and its file."""
    file = tmp_path / 'my_measures.py'
    file.write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module('my_measures'), file
    del sys.modules['my_measures']


def test_a_class_of_ones_own_is_named_with_its_source_and_read_where_it_is_handed_in(mine):
    module, _ = mine
    decoding = Decoding(exit=Exit(module.Mine(0.25, 3), 0.5))
    document = to_json(decoding)
    name = {'class': 'my_measures:Mine', 'source': source_hash(module.Mine)}
    assert document['exit']['measure'] == {**name, 'gain': 0.25, 'plain': 3}
    assert same(from_json(document, classes=[module.Mine]), decoding)
    with pytest.raises(ValueError) as error:
        from_json(document)
    assert '--measure my_measures:Mine, or classes=[Mine]' in str(error.value) and '\n' not in str(error.value)
    inner = Decoding(exit=Exit(SoftmaxGap(module.All()), 0.5))
    assert same(from_json(to_json(inner), classes=[module.All]), inner)
    with pytest.raises(ValueError, match='exit.measure: my_measures:All is no Measure'):
        from_json({'exit': {'measure': to_json(inner)['exit']['measure']['vocabulary']}}, classes=[module.All])


def test_a_class_of_a_script_has_the_name_that_it_is_imported_by(mine, monkeypatch):
    module, _ = mine
    imported = to_json(Decoding(exit=Exit(module.Mine(), 0.5)))
    monkeypatch.setitem(sys.modules, '__main__', module)
    monkeypatch.setattr(module.Mine, '__module__', '__main__')
    assert to_json(Decoding(exit=Exit(module.Mine(), 0.5))) == imported


def test_a_subclass_of_what_is_always_of_one_class_is_not_written_as_that_class(mine):
    module, _ = mine
    decoding = Decoding(exit=module.Late(SoftmaxGap(), 0.5, after=3))
    document = to_json(decoding)
    assert document['exit']['class'] == 'my_measures:Late' and document['exit']['after'] == 3
    assert same(from_json(document, classes=[module.Late]), decoding)
    with pytest.raises(ValueError, match="exit: 'my_measures:Late' does not come along"):
        from_json(document)


def test_a_class_whose_file_has_changed_is_refused(mine):
    module, file = mine
    document = to_json(Decoding(exit=Exit(module.Mine(), 0.5)))
    file.write_text(MINE + '# one word more\n')
    with pytest.raises(ValueError, match='my_measures:Mine is not what the document was made with') as error:
        from_json(document, classes=[module.Mine])
    assert '\n' not in str(error.value)
    del document['exit']['measure']['source']
    with pytest.raises(ValueError, match='the document lacks its source'):
        from_json(document, classes=[module.Mine])


@pytest.mark.parametrize('name', ['os:system', 'my_measures:Mine', 'calm_jax.depth.confidence:SoftmaxGap', 'os.path:join'])
def test_a_document_imports_nothing(monkeypatch, tmp_path, name):
    (tmp_path / 'my_measures.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(tmp_path)

    def refuse(*arguments, **named):
        raise AssertionError('imported')

    monkeypatch.setattr(importlib, 'import_module', refuse)
    documents = [{'exit': {'measure': {'class': name}}}, {'plan': {'class': name}}, {'gate': {'class': name, 'source': 'a'}}]
    errors = []
    for document in documents:
        try:
            from_json(document)
        except ValueError as error:
            errors.append(str(error))
    assert 'my_measures' not in sys.modules
    assert len(errors) == 3 and all(f'{name!r} does not come along' in error for error in errors)


def test_a_class_that_no_file_defines_and_an_option_that_documents_need_are_refused():
    namespace = types.ModuleType('typed_in').__dict__
    exec('class Typed(Measure): pass', {'Measure': Measure, '__name__': 'typed_in'}, namespace)
    with pytest.raises(ValueError, match='Typed is defined in no file'):
        to_json(Decoding(exit=Exit(pytree(namespace['Typed'])(), 0.5)))

    @pytree
    class Sourced(StateSimilarity):
        source: int = option(default=3)

    with pytest.raises(ValueError, match='exit.measure.source: an option cannot be called source'):
        to_json(Decoding(exit=Exit(Sourced(), 0.5)))

    @pytree
    class Headless(StateSimilarity):
        kernel: jax.Array = array()

    with pytest.raises(ValueError, match='Headless.head names no head'):
        to_json(Decoding(exit=Exit(Headless(jnp.ones(1)), 0.5)))


@pytest.mark.parametrize(
    'decoding, words',
    [
        (Decoding(), 'full depth'),
        (Decoding(limits=Limits(8, 8), seed=3), 'full depth'),
        (Decoding(exit=Exit(SoftmaxGap(FixedPruning(keep=64)))), 'softmax_gap, fixed vocabulary of 64'),
        (Decoding(exit=Exit(SoftmaxGap(FixedPruning()))), 'softmax_gap, fixed vocabulary of 256'),
        (Decoding(exit=Exit(SoftmaxGap(FrequentIds(np.arange(9))))), 'softmax_gap, frequent vocabulary of 1024'),
        (
            Decoding(exit=Exit(SoftmaxGap(FrequentIds(np.arange(9), 8)), 0.5)),
            'softmax_gap, frequent vocabulary of 8, threshold 0.5',
        ),
        (
            Decoding(exit=Exit(WeightedContrast(vocabulary=DecayingPruning(), emits='dola'), 0.5, Decaying(), 2)),
            'weighted_contrast (emits dola), decaying vocabulary, decaying threshold, threshold 0.5, min_exit_layer 2',
        ),
        (Decoding(exit=Exit(Classifier(**HEADS['exit_classifier'])), propagation=Eager()), 'classifier, eager propagation'),
        (Decoding(plan=Uniform(0.5), choice=Beam(3)), 'uniform plan (share 0.5), beam (size 3)'),
        (Decoding(choice=Sampled(0.7)), 'full depth, sampled (temperature 0.7)'),
    ],
)
def test_a_document_is_described_in_a_few_words(decoding, words):
    assert describe(to_json(decoding)) == words


def test_every_option_of_the_library_has_a_help_and_a_type_that_is_checked():
    for place in options.walk(Decoding):
        hint = options.annotations(place.kind)[place.field.name]
        held = place.option.kind or place.option.kinds is not None or place.option.array
        assert held or place.option.help, place.full_path
        if not held:
            broken = dataclasses.make_dataclass('Broken', [('value', hint)])(object())
            with pytest.raises(ValueError):
                check_types(broken)


def test_every_vocabulary_and_measure_that_comes_along_can_be_named():
    for kind in options.classes(Decoding):
        if issubclass(kind, Measure | Vocabulary):
            assert ':' not in json.dumps(to_json(away(Decoding, kind))['exit']['measure']['class'])


def test_trained_arrays_that_are_not_the_checkpoints_are_not_written_in_its_name():
    head = {'kernel': np.ones((4, 1), np.float32), 'bias': np.zeros(1, np.float32)}
    own = Decoding(exit=Exit(Classifier(**head), 0.5))
    check_heads(own, {'exit_classifier': head})
    check_heads(Decoding(exit=Exit(SoftmaxGap(), 0.5)), None)
    for heads in (None, {'exit_classifier': {**head, 'kernel': head['kernel'] + 1e-7}}):
        with pytest.raises(ValueError, match="^exit.measure.kernel is not what the checkpoint's exit_classifier holds"):
            check_heads(own, heads)
