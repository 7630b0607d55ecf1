"""Rows in flight, in float64: what a row gives does not depend on its slot, on who stands beside it, or on when it came in."""

import jax
import numpy as np
import pytest

from calm_jax import flight
from calm_jax.data.windows import DecodeBatch, length_mask
from calm_jax.decoding import speculation
from calm_jax.decoding.choice import Sampled
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import begin, fly, generate, insert, landed, step, vacant, widen
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.propagation import FirstState, Lazy, LazyAdapted
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.rules import Rules
from calm_jax.decoding.trace import trace_of
from calm_jax.depth.adapters import ExitAdapters
from calm_jax.depth.confidence import Oracle, SoftmaxGap, StateSimilarity
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.exits import Exit
from calm_jax.depth.gates import Gate
from calm_jax.depth.plans import PlanMaker
from calm_jax.depth.vocabulary import FixedPruning, FrequentIds
from calm_jax.pytrees import pytree
from calm_jax.types import Plan
from tests.laws.test_family_laws import NAMES, load


@pytree
class Closed(Gate):
    """Closed to single sub-layers, by draws of the row's own."""

    def __call__(self, memory, context):
        return memory, jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, (3,)))(context.keys)


@pytree
class DrawnPlan(PlanMaker):
    """Sub-layers by draws of the row's own."""

    def __call__(self, context):
        def drawn(kind, count):
            return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, kind), 0.5, (count,)))(context.keys)

        layers, encoder = context.sizes.layers, context.sizes.encoder_layers
        return Plan(*(drawn(kind, count) for kind, count in enumerate((layers, layers, layers, encoder, encoder))))


LENGTH, SLOTS, TEXTS = 12, 3, 9
LIMITS = np.array([2, 9, 4, 1, 7, 12, 3, 5, 6], np.int32)
DEPTHS = np.array([1, 0, 2, 1, 2, 0, 1, 2, 1], np.int32)  # of 'depth', where a row leaves whatever it is like
NARROW = 5  # the width of the first texts' sources

# Of texts whose ids are below 96, so that each has something to say.
RULES = Rules(
    sequence_bias=(((10,), 1.0), ((11, 12), -3.0)),
    encoder_repetition_penalty=0.8,
    repetition_penalty=1.3,
    no_repeat_ngram_size=2,
    encoder_no_repeat_ngram_size=2,
    bad_words_ids=((7, 8), (9,)),
    min_length=9,
    min_new_tokens=2,
    exponential_decay_length_penalty=(4, 1.2),
    suppress_tokens=(5,),
    begin_suppress_tokens=(6, 13),
)

FREQUENT = FrequentIds(ids=np.arange(3, 15, dtype=np.int32), count=8)


# A contrast remembers more than a gap, of a list what it does of all ids; a gate and the first state are matters apart.
def adapters(config):
    """Exit adapters that move every state."""
    rng, shape = np.random.default_rng(5), (config.num_decoder_layers - 1, config.emb_dim)
    draws = (rng.normal(size=each).astype(np.float32) for each in (shape, shape, (*shape, config.emb_dim)))
    return ExitAdapters(*(centre + 0.1 * each for centre, each in zip((1, 0, 0), draws)))


DECISIONS = {
    'full': {},
    'lazy': {'exit': Exit(StateSimilarity(), 0.9), 'propagation': Lazy(3)},
    'pruned': {'exit': Exit(WeightedContrast(vocabulary=FixedPruning(keep=6)), 0.2)},
    'adapted': {'exit': Exit(SoftmaxGap(), 0.1, adapters=adapters(load('t5_1_0')[0])), 'propagation': LazyAdapted(3)},
    'frequent': {'exit': Exit(WeightedContrast(vocabulary=FREQUENT), 0.1)},
    'plan': {'plan': DrawnPlan(), 'exit': Exit(SoftmaxGap(), 0.1), 'propagation': Lazy(2)},
    'plan alone': {'plan': DrawnPlan(), 'plan_prompt': 'plan'},
    'verified': {'exit': Exit(SoftmaxGap(), 0.1, verify=3)},
    'depth': {},
    'oracle': {'exit': Exit(Oracle(), 0.5), 'propagation': Lazy(3)},
    'gate': {'gate': Closed(), 'exit': Exit(SoftmaxGap(), 0.1), 'propagation': FirstState(4)},
    'drawn early': {'choice': Sampled(0.9), 'rules': RULES, 'exit': Exit(SoftmaxGap(), 0.1)},
    'drawn': {'choice': Sampled(0.9, top_p=0.9, min_p=0.02), 'rules': RULES},
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def texts(name):
    """(configuration, parameters, sources [TEXTS, S], what of them is there): the first four leave room for narrow sources."""
    config, params, source, _ = load(name)
    rng = np.random.default_rng(3)
    sources = rng.integers(3, config.vocab_size, (TEXTS, source.shape[1])).astype(np.int32)
    lengths = np.array([2 + row % 4 if row < 4 else source.shape[1] - row % 3 for row in range(TEXTS)])
    mask = length_mask(lengths, source.shape[1], left=config.decoder_only)
    return config, params, np.where(mask, sources, config.pad_id).astype(np.int32), mask


def cut(config, sources, rows, width):
    """Sources of these rows at a width."""
    return sources[rows, -width:] if config.decoder_only else sources[rows, :width]


def in_flight(config, params, sources, mask, decoding, settings, scored, packing, narrow):
    """Every text's trace by number, from SLOTS slots that are refilled, two rows at a time, on a ring begun at 1000. narrow:
    the width of the first sources."""
    slots, found = None, {}
    groups = [(np.array([0, 1]), narrow), (np.array([2, 3]), narrow)]
    groups += [
        (np.array([4, 5]), sources.shape[1]),
        (np.array([6, 7]), sources.shape[1]),
        (np.array([8, -1]), sources.shape[1]),
    ]
    for rows, width in groups:
        tokens = cut(config, sources, rows, width)
        present = cut(config, mask, rows, width) & (rows[:, None] >= 0)
        own = jax.tree.map(lambda each, rows=rows: each[rows], settings)
        options = {
            'rows': own,
            'log_probabilities': scored,
            'capacity': LENGTH,
            'cursor': np.int32(1000),
            'example_ids': rows.astype(np.int32),
            'packing': packing,
        }
        prefilled = begin(config, params, tokens, present, decoding, **options)
        if slots is None:
            slots = vacant(prefilled, SLOTS)
        elif width != slots.state.inputs.source.shape[1]:
            slots = widen(config, slots, prefilled)
            inputs = slots.state.inputs
            assert set(np.asarray(inputs.source)[~np.asarray(inputs.mask)].tolist()) == {config.pad_id}
        slots, flown = fly(config, params, slots, prefilled, rows, 8 in rows, decoding, packing)
        collect(found, flown.numbers, flown.trace)
    collect(found, slots.numbers, landed(config, slots))
    return found


def collect(found, numbers, trace):
    trace = jax.device_get(trace)
    for row, number in enumerate(np.asarray(numbers).tolist()):
        if number >= 0:
            assert number not in found
            found[number] = jax.tree.map(lambda each, row=row: each[row], trace._replace(executed=None))


PACKED = Packing((1, 2), (1, 2))
# Every width is a copy of the layers: one will do where it is what a measure remembers that is packed, from point to point.
ONE_WIDTH = Packing((1, 2), (2,))
BY_SUB_LAYER, BY_SUB_LAYER_IN_WIDTHS = (Packing((), widths, sub_layers=True) for widths in ((2,), (1, 2)))
# An encoder that reads nearby tokens ends before the slots begin: its decoder is another's.
DECODERS = [name for name in NAMES if name != 'longt5_global']
CASES = [(name, 'lazy', PACKED if name in ('t5_1_0', 'gpt2') else ONE_WIDTH) for name in DECODERS]
# Layers that wait where nothing is packed: where the host ends rows.
CASES += [('t5_1_0', decisions, NEVER) for decisions in ('full', 'drawn')]
CASES += [('t5_1_0', decisions, ONE_WIDTH) for decisions in ('pruned', 'frequent', 'plan', 'oracle', 'depth', 'adapted')]
CASES += [('t5_1_0', 'gate', BY_SUB_LAYER_IN_WIDTHS), ('llama_3', 'plan', BY_SUB_LAYER)]
CASES += [(name, 'plan alone', BY_SUB_LAYER) for name in ('t5_1_0', 'llama_3')]
CASES += [('llama_3', 'full', NEVER), ('llama_3', 'drawn early', ONE_WIDTH)]
CASES += [(name, 'verified', NEVER) for name in ('t5_1_0', 'llama_3')]
# Slots that grow on the way are another two programs: beside an encoder and without one, with and without an exit, and where
# rules read a prompt and positions turn.
GROWING = [('t5_1_0', 'lazy', PACKED), ('gpt2', 'lazy', PACKED)]
GROWING += [('t5_1_0', 'full', NEVER), ('llama_3', 'drawn early', ONE_WIDTH), ('llama_3', 'verified', NEVER)]


SCORED = ('full', 'lazy', 'depth')  # with log-probabilities


def decoding_of(decisions):
    return Decoding(limits=Limits(max_new_tokens=LENGTH), **DECISIONS[decisions])


def settings_of(decisions):
    """What each text has of its own."""
    thresholds = np.linspace(0.05, 1, TEXTS).astype(np.float32) if 'exit' in DECISIONS[decisions] else None
    return Rows(threshold=thresholds, depth=DEPTHS if decisions == 'depth' else None, limit=LIMITS)


@pytest.mark.parametrize('name, decisions, packing', CASES)
def test_a_row_in_flight_is_what_it_is_alone(name, decisions, packing, monkeypatch):
    # Whether a round drafts, all rows decide together, and by that what it takes, not what it says.
    monkeypatch.setattr(speculation, 'SLACK', 1000.0)
    config, params, sources, mask = texts(name)
    decoding, settings, scored = decoding_of(decisions), settings_of(decisions), decisions in SCORED
    narrow = NARROW if (name, decisions, packing) in GROWING else sources.shape[1]
    found = in_flight(config, params, sources, mask, decoding, settings, scored, packing, narrow)
    assert sorted(found) == list(range(TEXTS))
    together = generate(config, params, sources, mask, decoding, rows=settings, log_probabilities=scored)
    together = jax.device_get(together)
    assert len(set(together.lengths.tolist())) > 3
    for number, row in found.items():
        expected = jax.tree.map(lambda each, number=number: each[number], together._replace(executed=None))
        for field, one, other in zip(row._fields, row, expected):
            message = f'{field} of text {number}'
            jax.tree.map(lambda a, b, said=message: np.testing.assert_allclose(a, b, atol=1e-6, err_msg=said), one, other)


ENOUGH = np.array([1, 20, 3, 9, 5, 2, 20, 4, 1])  # tokens after which the host ends each text, if it has not ended


def test_rows_that_the_host_ends_say_the_same_whenever_it_looks_and_leave_their_slots(monkeypatch):
    config, params, sources, mask = texts('t5_1_0')
    decoding = decoding_of('lazy')
    expected = jax.device_get(generate(config, params, sources, mask, decoding))
    ends = np.minimum(expected.lengths, ENOUGH)
    batches = [
        DecodeBatch(sources[start : start + 3], mask[start : start + 3], np.arange(start, start + 3), np.zeros(3, bool))
        for start in range(0, TEXTS, 3)
    ]

    def flown(look, stopped=lambda row, tokens: len(tokens) >= ENOUGH[row]):
        """(trace of each text, how many places were run) where the host looks every so many steps."""
        monkeypatch.setattr(flight, 'LOOK', look)
        arguments = {'example_ids': lambda rows: rows.astype(np.int32), 'settings': lambda rows: None}
        found, places = {}, 0
        for landing in flight.fly_window(
            config, params, batches, decoding, SLOTS, wanted=range(TEXTS), stopped=stopped, **arguments
        ):
            collect(found, landing.rows, landing.trace)
            places += landing.places
        return found, places

    run = {look: flown(look) for look in (1, 3, 5, 1000)}
    for look, (found, _) in run.items():
        assert sorted(found) == list(range(TEXTS))
        for row, trace in found.items():
            assert ends[row] <= trace.lengths <= min(expected.lengths[row], ends[row] + look - 1)
            for name in ('tokens', 'exit_layers', 'confidence'):
                one, other = getattr(trace, name), getattr(expected, name)[row]
                np.testing.assert_allclose(one[: ends[row]], other[: ends[row]], atol=1e-6, err_msg=name)
    places = [run[look][1] for look in (1, 3, 5, 1000)]
    assert places == sorted(places) and places[0] < places[-1]
    assert flown(3)[1] == places[1]  # a function of texts and settings


@pytest.mark.parametrize('name, decisions', [('t5_1_0', 'gate'), ('gpt2', 'lazy'), ('t5_1_0', 'verified')])
def test_a_row_that_is_let_into_a_running_state_goes_on_as_alone(name, decisions, monkeypatch):
    monkeypatch.setattr(speculation, 'SLACK', 1000.0)
    config, params, sources, mask = texts(name)
    decoding, settings, scored = decoding_of(decisions), settings_of(decisions), decisions in SCORED

    def begun(rows):
        own = jax.tree.map(lambda each: each[rows], settings)
        options = {'rows': own, 'log_probabilities': scored, 'capacity': LENGTH, 'cursor': np.int32(1000)}
        return begin(config, params, sources[rows], mask[rows], decoding, example_ids=rows.astype(np.int32), **options)

    state = begun(np.array([4, 5]))
    for _ in range(4):
        state = step(config, params, state, decoding)
    assert decisions != 'verified' or state.carry.pending  # within a round
    state = insert(state, [1, -1], begun(np.array([7, 8])))  # the second stays out
    for _ in range(2 * LENGTH):
        state = step(config, params, state, decoding)
    trace = jax.device_get(trace_of(config, state))
    together = jax.device_get(generate(config, params, sources, mask, decoding, rows=settings, log_probabilities=scored))
    for row, source in ((0, 4), (1, 7)):
        for field in ('tokens', 'exit_layers', 'lengths', 'confidence'):
            one, other = getattr(trace, field)[row], getattr(together, field)[source]
            np.testing.assert_allclose(one[:LENGTH] if one.ndim else one, other, atol=1e-6, err_msg=f'{field} {row}')
