"""What holds for every decision: identity, independence of rows, propagation, and equality with the definition."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding.choice import Beam, Greedy, Sampled
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import begin, generate, generate_program, step, trace_of
from calm_jax.decoding.propagation import CopyKV, Eager, FirstState, Lazy, LazyAdapted
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.rules import Rules
from calm_jax.depth import plans
from calm_jax.depth.adapters import ExitAdapters
from calm_jax.depth.confidence import Classifier, Measure, Oracle, SoftmaxGap, SoftmaxMax, StateSimilarity, StaticDepth
from calm_jax.depth.contrast import DivergentContrast, WeightedContrast
from calm_jax.depth.exits import Exit
from calm_jax.depth.gates import Gate, ScriptedGate
from calm_jax.depth.plans import GivenPlan, PlanMaker
from calm_jax.depth.thresholds import Constant, Decaying, ScaledDecaying
from calm_jax.depth.vocabulary import DecayingPruning, FixedPruning, FrequentIds, Whole
from calm_jax.models.bound import bound
from calm_jax.models.transformer import Transformer
from calm_jax.pytrees import pytree
from calm_jax.types import Plan
from tests.laws.definitions import (
    KERNEL,
    LENGTH,
    contrast,
    decaying_classifier,
    gap,
    half,
    largest,
    listed,
    log_softmax,
    pruned_gap,
    similarity,
    since_second,
)

FREQUENT = np.array([7, 1, 12, 4, 9, 2, 13, 0, 3, 5, 6, 8, 10, 11], np.int32)  # all of them, by some frequency
GATE = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]], bool)


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def decode(config, params, sources):
    """Decodes `sources`, in float64 where x64 is on; parts are those of a `Decoding`, options those of `generate`. only: a row
    that stands among rows of nothing, in the program of all rows. texts, mask: others in their place."""

    def run(rows=slice(None), options=None, only=None, texts=sources, mask=sources != config.pad_id, **parts):
        dtype = 'float64' if jax.config.jax_enable_x64 else 'float32'
        cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
        options = {'example_ids': np.arange(len(sources), dtype=np.int32)[rows], **(options or {})}
        config_ = dataclasses.replace(config, dtype=dtype)
        if only is not None:
            mask = mask & (np.arange(len(texts)) == only)[:, None]
        texts, mask = texts[rows], None if mask is None else mask[rows]
        return jax.device_get(generate(config_, cast, texts, mask, decoding_of(**parts), **options))

    return run


def there(config, sources):
    """bool [B, S], which tokens of sources without an id that pads are there."""
    return sources != config.pad_id


def decoding_of(length=LENGTH, plan=None, **parts):
    """A Decoding of that many tokens; a plan may be given as it is."""
    plan = GivenPlan(plan) if isinstance(plan, Plan) else plan
    return Decoding(limits=Limits(max_new_tokens=length), plan=plan, **parts)


def mixed_plan(rows, seed=1):
    """Another plan for every row, sub-layer by sub-layer."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shapes = [(5, 3)] * 3 + [(5, 2)] * 2
    return Plan(*((rng.random(shape) < 0.6)[rows] for shape in shapes))


def equal(trace, other):
    for name in ('tokens', 'lengths', 'exit_layers'):
        np.testing.assert_array_equal(getattr(trace, name), getattr(other, name), err_msg=name)
    for name in ('self_attention', 'cross_attention', 'feed_forward'):
        np.testing.assert_array_equal(getattr(trace.work, name), getattr(other.work, name), err_msg=name)


def row_of(trace, row):
    """One row of a trace, as a trace of one row."""
    return jax.tree.map(lambda x: x[row : row + 1], trace._replace(executed=trace.executed[None]))._replace(executed=None)


def alike(trace, row, alone, place=0):
    """Whether a row decoded alone is that row of the batch, work and all; place: where it stands among rows of nothing."""
    for one, other in zip(jax.tree.leaves(row_of(alone, place)), jax.tree.leaves(row_of(trace, row)), strict=True):
        if one.shape != other.shape:  # a row's own limit may be shorter
            assert not other[:, one.shape[1] :].any()
            other = other[:, : one.shape[1]]
        if one.dtype.kind == 'f':
            np.testing.assert_allclose(one, other, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)


def matches(trace, row, reference):
    length = len(reference.tokens)
    assert trace.lengths[row] == length
    assert trace.tokens[row, :length].tolist() == reference.tokens
    assert trace.exit_layers[row, :length].tolist() == reference.exit_layers
    assert sub_layers(trace, row, length) == reference.sub_layers
    np.testing.assert_allclose(trace.confidence[row, :length], reference.confidence, atol=1e-5)
    assert not trace.tokens[row, length:].any() and not trace.exit_layers[row, length:].any()


def sub_layers(trace, row, length):
    """Per token how many self-attentions, cross-attentions and feed-forwards ran."""
    return list(zip(*(column[row, :length].tolist() for column in trace.work[:3])))


def test_no_decision_is_the_greedy_full_model_and_some_rows_end_early(decode, decode_by_definition, sources, wide):
    trace = decode()
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH))
    assert len(set(trace.lengths.tolist())) > 1
    assert (trace.exit_layers[:, 0] == 3).all()


def test_a_token_with_the_id_that_pads_is_read_like_any_other(decode, decode_by_definition, sources, config, wide):
    texts = sources.copy()
    texts[0, 2] = texts[2, 0] = texts[2, 3] = config.pad_id  # within their texts
    lengths = np.array([6, 3, 5, 1, 4])
    mask = np.arange(6) < lengths[:, None]
    trace, said = decode(texts=texts, mask=mask), decode()
    for row, text in enumerate(texts):
        matches(trace, row, decode_by_definition(text, LENGTH))
    assert any(trace.tokens[row].tolist() != said.tokens[row].tolist() for row in (0, 2))


def test_without_a_mask_all_is_text_and_what_may_be_padding_is_refused(decode, config, params, sources, wide):
    whole = np.where(there(config, sources), sources, 2)
    equal(decode(texts=whole, mask=None), decode(texts=whole, mask=np.ones(whole.shape, bool)))
    with pytest.raises(ValueError, match='^row 1 of tokens ends with the id that pads, 0, and there is no mask; [^\n]*$'):
        generate(config, params, sources, decoding=decoding_of())


def test_cached_decoding_gives_the_teacher_forced_logits(config, params, sources, decode, wide):
    trace = decode()
    module = Transformer(dataclasses.replace(config, dtype='float64'))
    shifted = np.pad(trace.tokens, ((0, 0), (1, 0)))[:, :-1]
    logits = jax.jit(module.apply)({'params': jax.tree.map(np.float64, params)}, sources, shifted, there(config, sources))
    greedy = np.argmax(logits, axis=-1)
    # A threshold that nothing reaches: every token's confidence is the last layer's.
    measured = decode(exit=Exit(SoftmaxMax(), np.nextafter(1.0, 0)))
    largest = np.max(jax.nn.softmax(logits), axis=-1)
    for row, length in enumerate(trace.lengths):
        np.testing.assert_array_equal(greedy[row, :length], trace.tokens[row, :length])
        np.testing.assert_allclose(measured.confidence[row, :length], largest[row, :length], rtol=1e-6)


@pytest.mark.parametrize(
    'decisions',
    [
        {'exit': Exit(SoftmaxGap(), 1.0), 'gate': ScriptedGate(GATE, 1.0), 'plan': plans.Uniform(1.0)},
        {'exit': Exit(SoftmaxGap(), jnp.ones(())), 'gate': ScriptedGate(GATE, jnp.ones(()))},
        {'plan': plans.fixed(5, np.ones(3), np.ones(2))},
        {'gate': ScriptedGate(np.ones((1, 3), bool))},
        {'exit': Exit(Classifier(KERNEL, np.array([-50.0])), 0.9)},
    ],
    ids=['dials at 1', 'dials at 1 on the device', 'full plan', 'open gate', 'never sure'],
)
def test_everything_off_is_the_full_model_token_for_token(decode, decisions, wide):
    equal(decode(**decisions), decode())


def test_a_softmax_gap_of_exactly_one_does_not_leave_at_threshold_one(config, params, sources):
    # In float32 the gap of a peaked distribution rounds to 1; λ = 1 must be the full model all the same.
    peaked = {
        **params,
        'decoder': {**params['decoder'], 'logits_dense': {'kernel': params['decoder']['logits_dense']['kernel'] * 1000}},
    }

    def run(options=None, **parts):
        mask = there(config, sources)
        return jax.device_get(generate(config, peaked, sources, mask, decoding_of(**parts), **(options or {})))

    almost, full = run(exit=Exit(SoftmaxGap(), 0.9999999)), run(exit=Exit(SoftmaxGap(), 1.0))
    # A threshold that stands at 1 within a program is off as well: a mask, and no comparison with 1.
    equal(full, run({'rows': Rows(threshold=np.ones(5, np.float32))}, exit=Exit(SoftmaxGap(), 0.5)))
    assert (almost.confidence[almost.exit_layers > 0] == 1).any() and almost.exit_layers.max() < 3
    assert (full.exit_layers[full.exit_layers > 0] == 3).all()
    equal(full, run())


@pytest.mark.parametrize(
    'exit, leaves',
    [
        (Exit(SoftmaxGap(), 0.35), gap(0.35)),
        (Exit(Classifier(KERNEL, np.zeros(1)), 0.5, Decaying(4.0)), decaying_classifier(0.5, 4.0)),
        (Exit(StateSimilarity(), 0.8), similarity(0.8)),
    ],
    ids=['gap', 'classifier', 'state'],
)
def test_exits_equal_the_definition_that_computes_everything(decode, decode_by_definition, sources, exit, leaves, wide):
    trace = decode(exit=exit)
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH, leaves))
    assert len(np.unique(trace.exit_layers[trace.exit_layers > 0])) >= 2


@pytest.mark.parametrize(
    'pruned',
    [
        FixedPruning(keep=4),
        FixedPruning(keep=4, partition='full'),
        DecayingPruning(keep_least=2),
        DecayingPruning(keep_least=2, partition='full'),
        DecayingPruning(keep_first=5, keep_least=2, partition='full'),
        FixedPruning(keep=2, pruning_layer=2),
        FixedPruning(keep=2, pruning_layer=3),
    ],
    ids=lambda pruned: f'{type(pruned).__name__}-{pruned.most}-{pruned.pruning_layer}-{pruned.partition}',
)
def test_pruning_equals_its_definition(decode, decode_by_definition, sources, pruned, wide):
    levels = {'kept': 0.55, 'full': 0.35}
    threshold = levels[pruned.partition]
    trace = decode(exit=Exit(SoftmaxGap(pruned), threshold, min_exit_layer=pruned.pruning_layer))
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH, pruned_gap(threshold, pruned)))
    assert pruned.pruning_layer == 3 or len(np.unique(trace.exit_layers[trace.exit_layers > 0])) >= 2


# What is said is chosen by what both contrasts share; lists show what the one says that says the model's own.
@pytest.mark.parametrize(
    'measure, amateurs, emits',
    [(WeightedContrast, half, emits) for emits in ('model', 'auto_contrastive', 'dola')]
    + [(DivergentContrast, since_second, emits) for emits in ('auto_contrastive', 'dola')],
)
def test_contrasts_equal_their_definitions(decode, decode_by_definition, sources, measure, amateurs, emits, wide):
    trace = decode(exit=Exit(measure(emits=emits), 0.5))
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH, contrast(0.5, amateurs, emits=emits)))
    assert len(np.unique(trace.exit_layers[trace.exit_layers > 0])) >= 2


@pytest.mark.parametrize('measure', [WeightedContrast, DivergentContrast])
def test_pruning_that_drops_nothing_is_none_whatever_is_remembered(decode, measure, wide):
    # Whichever distribution speaks: that is chosen of the same scores, as the tests of the measure alone show.
    whole, pruned = (
        decode(exit=Exit(measure(emits='auto_contrastive', vocabulary=each), 0.5)) for each in (Whole(), FixedPruning(keep=14))
    )
    equal(pruned, whole)


LISTED = [
    (SoftmaxGap(FrequentIds(FREQUENT, 5)), 0.6, gap(0.6)),
    (SoftmaxMax(FrequentIds(FREQUENT, 3)), 0.8, largest(0.8)),
    (WeightedContrast(FrequentIds(FREQUENT, 6)), 0.5, contrast(0.5, half)),
    (DivergentContrast(FrequentIds(FREQUENT, 4)), 0.6, contrast(0.6, since_second)),
]


@pytest.mark.parametrize('measure, threshold, rule', LISTED, ids=lambda each: type(each).__name__)
def test_listed_ids_decide_the_exit_and_the_whole_head_the_token(
    decode, decode_by_definition, sources, measure, threshold, rule, wide
):
    ids, said_outside = FREQUENT[: measure.vocabulary.count], 0
    trace = decode(exit=Exit(measure, threshold))
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH, listed(rule, ids)))
        said_outside += np.sum(~np.isin(trace.tokens[row, : trace.lengths[row]], ids))
    assert len(np.unique(trace.exit_layers[trace.exit_layers > 0])) >= 2 and said_outside
    if measure.remembers:  # others pass layers as they do with all ids
        equal(trace, decode(exit=Exit(measure, threshold), propagation=Eager()))
    # Of each token the list at every layer it visited, and all ids once.
    np.testing.assert_array_equal(trace.work.head_ids, np.where(trace.exit_layers > 0, trace.exit_layers * len(ids) + 14, 0))
    np.testing.assert_array_equal(trace.work.head_states, np.where(trace.exit_layers > 0, trace.exit_layers + 1, 0))


def test_for_the_oracle_a_list_of_every_id_is_the_whole_vocabulary(decode, wide):
    whole, all_listed = (decode(exit=Exit(Oracle(vocabulary=each), 0.4)) for each in (Whole(), FrequentIds(FREQUENT, 14)))
    equal(all_listed, whole)
    np.testing.assert_allclose(all_listed.confidence, whole.confidence, rtol=1e-6)
    assert len(np.unique(whole.exit_layers[whole.exit_layers > 0])) >= 2


def test_a_list_of_one_id_is_sure_at_once_and_says_what_the_whole_head_says_there(decode, wide):
    one, first = decode(exit=Exit(SoftmaxGap(FrequentIds(FREQUENT, 1)), 0.999)), decode(exit=Exit(StaticDepth(), 1 / 3))
    equal(one, first)
    assert set(one.exit_layers[one.exit_layers > 0].tolist()) == {1}


@pytest.mark.parametrize('seed', range(2))
def test_listed_ids_under_gates_and_plans_equal_their_definition(decode, decode_by_definition, sources, seed, wide):
    plan, vocabulary = mixed_plan(slice(None), seed), FrequentIds(FREQUENT, 5)
    trace = decode(exit=Exit(SoftmaxGap(vocabulary), 0.6), plan=plan, gate=ScriptedGate(GATE))
    for row, source in enumerate(sources):

        def sub_layers(position, layer, row=row, plan=plan):
            opened = GATE[min(position, len(GATE) - 1), layer]
            return tuple(bool(opened and each[row, layer]) for each in plan[:3])

        def encoder_sub_layers(layer, row=row, plan=plan):
            return plan.encoder_attention[row, layer], plan.encoder_feed_forward[row, layer]

        rule = listed(gap(0.6), FREQUENT[:5])
        matches(trace, row, decode_by_definition(source, LENGTH, rule, sub_layers, encoder_sub_layers=encoder_sub_layers))


def test_a_list_decodes_alike_with_its_columns_at_hand(decode, config, params, wide):
    exit = Exit(SoftmaxGap(FrequentIds(FREQUENT, 5)), 0.6)
    call = bound(dataclasses.replace(config, dtype='float64'), jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params))
    columns = call(jnp.asarray(FREQUENT[:5]), method='head_columns')
    equal(decode(exit=exit, options={'head_table': columns}), decode(exit=exit))
    # They are what is read: columns of nothing are never sure.
    nothing = jax.tree.map(jnp.zeros_like, columns)
    assert decode(exit=exit, options={'head_table': nothing}).exit_layers.max(axis=0)[0] == 3


FIXED, DECAYING, FREQUENT_FOUR = FixedPruning(keep=3), DecayingPruning(keep_least=2, partition='full'), FrequentIds(FREQUENT, 4)


# The largest probability remembers what the gap does, and a contrast of a pruned vocabulary whether it ranks once or often.
@pytest.mark.parametrize(
    'measure',
    [
        *(SoftmaxGap(vocabulary) for vocabulary in (FIXED, DECAYING, FREQUENT_FOUR)),
        SoftmaxMax(DECAYING),
        *(WeightedContrast(vocabulary=vocabulary) for vocabulary in (DECAYING, FREQUENT_FOUR)),
        *(DivergentContrast(vocabulary=vocabulary) for vocabulary in (FIXED, DECAYING, FREQUENT_FOUR)),
        *(Oracle(vocabulary) for vocabulary in (DECAYING, FREQUENT_FOUR)),
    ],
    ids=lambda measure: f'{type(measure).__name__}-{type(measure.vocabulary).__name__}',
)
def test_pruning_keeps_rows_apart_under_gates_plans_and_draws(decode, sources, measure, wide):
    decisions = {'exit': Exit(measure, 0.4), 'gate': ScriptedGate(GATE), 'choice': Sampled(0.7)}
    together = decode(plan=mixed_plan(slice(None)), **decisions)
    for row in (0, 3):
        alike(together, row, decode(only=row, plan=mixed_plan(slice(None)), **decisions), place=row)
        if measure == SoftmaxGap(DECAYING):  # a batch of one row is another program
            alike(together, row, decode(slice(row, row + 1), plan=mixed_plan(slice(row, row + 1)), **decisions))


@pytest.mark.parametrize('seed', range(4))
def test_pruning_under_gates_and_plans_equals_its_definition(decode, decode_by_definition, sources, seed, wide):
    pruned, plan = FixedPruning(keep=4), mixed_plan(slice(None), seed)
    trace = decode(exit=Exit(SoftmaxGap(pruned), 0.55), plan=plan, gate=ScriptedGate(GATE))
    for row, source in enumerate(sources):

        def sub_layers(position, layer, row=row, plan=plan):
            opened = GATE[min(position, len(GATE) - 1), layer]
            return tuple(bool(opened and each[row, layer]) for each in plan[:3])

        def encoder_sub_layers(layer, row=row, plan=plan):
            return plan.encoder_attention[row, layer], plan.encoder_feed_forward[row, layer]

        matches(
            trace,
            row,
            decode_by_definition(source, LENGTH, pruned_gap(0.55, pruned), sub_layers, encoder_sub_layers=encoder_sub_layers),
        )


def adapters(rank=0, seed=5):
    """Exit adapters that move the states of two layers of three, and the same by definition."""
    rng = np.random.default_rng(seed)
    head = {'scale': 1 + 0.3 * rng.normal(size=(2, 16)), 'bias': 0.3 * rng.normal(size=(2, 16))}
    if rank:
        head |= {'down': 0.3 * rng.normal(size=(2, 16, rank)), 'up': 0.3 * rng.normal(size=(2, rank, 16))}
    else:
        head['kernel'] = 0.1 * rng.normal(size=(2, 16, 16))
    head = {name: each.astype(np.float32) for name, each in head.items()}

    def read(layer, state):
        if not 0 <= layer < 2:
            return state
        product = head['kernel'][layer] if not rank else head['down'][layer].astype(np.float64) @ head['up'][layer]
        return head['scale'][layer] * state + head['bias'][layer] + state @ product

    return ExitAdapters(**head), read


@pytest.mark.parametrize(
    'measure, leaves, rank, propagation, stand_in',
    [
        (SoftmaxGap(), gap(0.3), 0, Lazy(), 'exit'),
        (SoftmaxGap(), gap(0.3), 3, LazyAdapted(), 'read'),
        (StateSimilarity(), similarity(0.3), 0, Eager(), 'exit'),
        (SoftmaxGap(FixedPruning(keep=6, pruning_layer=1)), None, 3, Lazy(), 'exit'),
    ],
    ids=('whole head', 'held as they are read', 'states', 'pruned'),
)
def test_adapted_states_are_what_measure_and_head_read_and_what_is_held_if_it_is_said(
    decode, decode_by_definition, sources, measure, leaves, rank, propagation, stand_in, wide
):
    made, read = adapters(rank)
    trace = decode(exit=Exit(measure, 0.3, adapters=made), propagation=propagation)
    for row, source in enumerate(sources):
        rule = leaves or pruned_gap(0.3, measure.vocabulary)
        matches(trace, row, decode_by_definition(source, LENGTH, rule, read=read, stand_in=stand_in))
    assert (trace.exit_layers[trace.exit_layers > 0] < 3).any()


def test_adapters_change_nothing_at_full_depth(decode, wide):
    full, adapted = decode(), decode(exit=Exit(SoftmaxGap(), 1.0, adapters=adapters()[0]))
    equal(full, adapted)
    never = decode(exit=Exit(SoftmaxGap(), 0.99999, min_exit_layer=3, adapters=adapters()[0]))
    np.testing.assert_array_equal(never.tokens, full.tokens)


@pytest.mark.parametrize('propagation, stand_in', [(FirstState(), 'first'), (CopyKV(), 'kv')])
def test_ablations_of_propagation_equal_their_definitions(decode, decode_by_definition, sources, propagation, stand_in, wide):
    trace = decode(exit=Exit(SoftmaxGap(), 0.35), propagation=propagation)
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH, gap(0.35), stand_in=stand_in))


def test_what_skipped_layers_hold_decides_the_output(decode, wide):
    # The three ways differ on this model, so the tests above could tell them apart.
    traces = [decode(exit=Exit(SoftmaxGap(), 0.35), propagation=each) for each in (Lazy(), FirstState(), CopyKV())]
    confidences = [trace.confidence for trace in traces]
    assert all(np.abs(confidences[i] - confidences[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize('window', [1, 3])
def test_filling_windows_do_not_matter(decode, window, wide):
    equal(decode(exit=Exit(SoftmaxGap(), 0.35), propagation=Lazy(window)), decode(exit=Exit(SoftmaxGap(), 0.35)))


@pytest.mark.parametrize('propagation, stand_in', [(Lazy(), 'exit'), (Eager(), 'exit'), (CopyKV(), 'kv')])
def test_any_mixture_of_gates_plans_and_exits_equals_masking(
    decode, decode_by_definition, sources, propagation, stand_in, wide
):
    for seed in range(8):
        plan = mixed_plan(slice(None), seed)
        gate = GATE if seed % 2 else np.ones_like(GATE)
        trace = decode(exit=Exit(SoftmaxGap(), 0.35), plan=plan, gate=ScriptedGate(gate), propagation=propagation)
        for row, source in enumerate(sources):

            def sub_layers(position, layer, row=row, plan=plan, gate=gate):
                opened = gate[min(position, len(gate) - 1), layer]
                return tuple(bool(opened and each[row, layer]) for each in plan[:3])

            def encoder_sub_layers(layer, row=row, plan=plan):
                return plan.encoder_attention[row, layer], plan.encoder_feed_forward[row, layer]

            matches(trace, row, decode_by_definition(source, LENGTH, gap(0.35), sub_layers, stand_in, encoder_sub_layers))


def test_no_two_decisions_share_a_tree_structure():
    # A structure shared by two classes would let a compiled program of one run for the other.
    values = [
        SoftmaxGap(),
        SoftmaxMax(),
        StateSimilarity(),
        Oracle(),
        StaticDepth(),
        Classifier(0, 0),
        Constant(),
        WeightedContrast(),
        DivergentContrast(),
        WeightedContrast(alpha=0.2),
        SoftmaxGap(FixedPruning(keep=3)),
        FrequentIds(0),
        FrequentIds(0, 512),
        SoftmaxGap(FrequentIds(0)),
        Whole(),
        FixedPruning(),
        DecayingPruning(),
        Decaying(4.0),
        ScaledDecaying(4.0),
        Lazy(),
        Lazy(4),
        Eager(),
        FirstState(),
        CopyKV(),
        Greedy(),
        Sampled(),
        Sampled(top_k=2),
        Sampled().resolved(),
        ScriptedGate(0),
        Scripted(0),
        Exit(SoftmaxGap()),
        Exit(Oracle()),
        Exit(Oracle(), min_exit_layer=2),
    ]
    structures = [jax.tree.structure(value) for value in values]
    for i, one in enumerate(structures):
        assert [j for j, other in enumerate(structures) if one == other] == [i]
        assert jax.tree.unflatten(one, jax.tree.leaves(values[i])) == values[i]


def test_a_grid_of_thresholds_is_one_program(decode):
    decode(exit=Exit(SoftmaxGap(), 0.5))
    before = generate_program.plain._cache_size()
    for threshold in (0.0, 0.1, 0.9, 0.9999):
        decode(exit=Exit(SoftmaxGap(), threshold))
    assert generate_program.plain._cache_size() == before


def test_a_uniform_plan_runs_its_layers_and_no_other(decode, decode_by_definition, sources, wide):
    trace = decode(plan=plans.Uniform(2 / 3))
    runs = plans.uniform_layers(2, 3)
    for row, source in enumerate(sources):
        matches(trace, row, decode_by_definition(source, LENGTH, sub_layers=lambda position, layer: (bool(runs[layer]),) * 3))
    assert trace.executed.max() == 2 * 3 * len(sources)


def test_a_row_of_a_random_plan_runs_what_its_text_draws_in_any_order_of_the_batch(decode, decode_by_definition, sources, wide):
    order, maker = np.array([3, 0, 4, 2, 1]), plans.RandomLayers(2 / 3, first=False)
    trace = decode(plan=maker, seed=1)
    runs = np.asarray(trace.plan.feed_forward)
    assert (runs.sum(axis=1) == 2).all() and len(np.unique(runs, axis=0)) > 1
    for row, (source, own) in enumerate(zip(sources, runs.tolist())):
        matches(trace, row, decode_by_definition(source, LENGTH, sub_layers=lambda position, layer, own=own: (own[layer],) * 3))
    before = generate_program.plain._cache_size()
    np.testing.assert_array_equal(decode(order, plan=maker, seed=1).plan.feed_forward, runs[order])
    assert (decode(plan=dataclasses.replace(maker, share=1 / 3)).plan.feed_forward.sum(axis=1) == 1).all()
    assert generate_program.plain._cache_size() == before  # the share is a number of the program


def test_a_row_decodes_alike_alone_and_in_a_batch(decode, sources, wide):
    decisions = {'exit': Exit(SoftmaxGap(), 0.35), 'gate': ScriptedGate(GATE), 'choice': Sampled(0.7)}
    together = decode(plan=mixed_plan(slice(None)), **decisions)
    for row in (0, 3):
        alike(together, row, decode(slice(row, row + 1), plan=mixed_plan(slice(row, row + 1)), **decisions))


def test_permuting_rows_permutes_the_output_exactly(decode):
    order = np.array([3, 0, 4, 2, 1])
    plain, permuted = decode(exit=Exit(SoftmaxGap(), 0.35)), decode(order, exit=Exit(SoftmaxGap(), 0.35))
    np.testing.assert_array_equal(permuted.tokens, plain.tokens[order])
    np.testing.assert_array_equal(permuted.confidence, plain.confidence[order])


def test_early_and_full_sampling_draw_with_the_same_keys(decode, wide):
    full = decode(choice=Sampled(0.7))
    never = decode(choice=Sampled(0.7), exit=Exit(SoftmaxGap(), 0.9999999))
    equal(full, never)
    other = decode(choice=Sampled(0.7), seed=1)
    assert (other.tokens != full.tokens).any()


@pytree
class Scripted(Measure):
    """Sure from layer exits[t] on, whatever the model says."""

    exits: Any

    def observe(self, memory, evidence):
        return memory, (evidence.layer + 1 >= self.exits[evidence.position]).astype(jnp.float32), None


def test_scripted_exits_happen_where_the_script_says(decode):
    script = np.array([1, 3, 2, 1, 1, 2, 3, 1, 2, 1])
    trace = decode(exit=Exit(Scripted(script), 0.5))
    for row, length in enumerate(trace.lengths):
        assert trace.exit_layers[row, :length].tolist() == script[:length].tolist()
    steps = trace.lengths.max()
    assert trace.executed[:steps].tolist() == (3 * len(trace.lengths) * script[:steps]).tolist()


def test_static_depth_and_a_minimum_exit_layer(decode, wide):
    trace = decode(exit=Exit(StaticDepth(), 1 / 3))
    assert (trace.exit_layers[trace.exit_layers > 0] == 1).all()
    trace = decode(exit=Exit(StaticDepth(), 1 / 3, min_exit_layer=2))
    assert (trace.exit_layers[trace.exit_layers > 0] == 2).all()


def test_the_oracle_leaves_at_the_first_layer_that_agrees(decode, decode_by_definition, sources, config, params, wide):
    # By the definition: decode with the exits that the oracle chose, and check each against the full pass on that prefix.
    trace = decode(exit=Exit(Oracle(), 0.5))
    assert len(np.unique(trace.exit_layers[trace.exit_layers > 0])) >= 2
    for row, source in enumerate(sources[:3]):
        chosen = trace.exit_layers[row]

        def recorded(layer, position, hidden, previous, logits, chosen=chosen, seen={}):  # noqa: B006
            return 1.0, layer + 1 == chosen[position]

        def deeper(layer, position, hidden, previous, logits, chosen=chosen, at=None):
            return 1.0, position != at and layer + 1 == chosen[position]

        reference = decode_by_definition(source, LENGTH, recorded)
        assert reference.tokens == trace.tokens[row, : trace.lengths[row]].tolist()
        for position in range(trace.lengths[row]):
            full = decode_by_definition(source, LENGTH, partial(deeper, at=position)).tokens[position]
            assert full == reference.tokens[position]  # the token that left is the full model's
            for below in range(1, chosen[position]):

                def earlier(layer, step, hidden, previous, logits, at=position, below=below, chosen=chosen):
                    return 1.0, layer + 1 == (below if step == at else chosen[step])

                assert decode_by_definition(source, LENGTH, earlier).tokens[position] != full


def test_finished_rows_run_no_layer_and_do_not_hold_the_batch(decode, sources, wide):
    trace = decode(exit=Exit(StaticDepth(), 0.3), only=0)
    assert trace.lengths[0] > 0 and not trace.lengths[1:].any() and not trace.exit_layers[1:].any()
    assert trace.executed.any()
    assert not decode(mask=np.zeros(sources.shape, bool)).executed.any()


@pytest.mark.parametrize('cursor', [0, 5, 11, 1000])
def test_a_state_begins_and_goes_on_anywhere_on_the_ring(decode, config, params, sources, cursor, wide):
    decisions = {'exit': Exit(SoftmaxGap(), 0.35), 'propagation': Lazy(3)}
    decoding, wide_config = decoding_of(**decisions), dataclasses.replace(config, dtype='float64')
    cast = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)
    rows = Rows(threshold=np.full(5, 0.35, np.float32))
    state = begin(wide_config, cast, sources, there(config, sources), decoding, rows=rows, capacity=12, cursor=cursor)
    for _ in range(LENGTH):
        state = step(wide_config, cast, state, decoding)
    trace = jax.device_get(trace_of(wide_config, state))
    together = decode(**decisions)
    for name in ('tokens', 'exit_layers', 'confidence'):
        np.testing.assert_allclose(getattr(trace, name)[:, :LENGTH], getattr(together, name), atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(trace.work.keys_values[:, :LENGTH], together.work.keys_values)


def test_rows_of_states_that_filled_unlike_layers_go_on_in_one_state(decode_by_definition, config, params, sources, wide):
    # Rows 0 and 1 left after the first layer for five steps, the others ran everything: what is filled differs by row.
    wide_config = dataclasses.replace(config, dtype='float64')
    cast = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)
    run = partial(step, wide_config, cast)
    decoding = decoding_of(exit=Exit(SoftmaxGap(), 0.5), propagation=Lazy(3))
    thrifty = np.arange(5) < 2

    def begun(threshold):
        rows = Rows(threshold=np.full(5, threshold, np.float32))
        return begin(wide_config, cast, sources, there(config, sources), decoding, rows=rows, capacity=12, cursor=7)

    states = []
    for threshold in (0.0, 1.0):
        state = begun(threshold)
        for _ in range(5):
            state = run(state, decoding)
        states.append(state)

    def by_row(array):
        return np.broadcast_to(array, (5,))

    def merged(one, other):
        if one.ndim == 0 or one.shape == (wide_config.num_decoder_layers,):
            return one
        per_row = one.shape[0] // 5
        chosen = np.repeat(thrifty, per_row).reshape((-1,) + (1,) * (one.ndim - 1)) if one.shape[0] % 5 == 0 else True
        return np.where(chosen, one, other)

    filled = [tuple(map(by_row, state.carry.cache.filled)) for state in states]
    states = [
        state._replace(carry=state.carry._replace(cache=state.carry.cache._replace(filled=each)))
        for state, each in zip(states, filled)
    ]
    assert any((one != other).any() for one, other in zip(*filled))
    carry = jax.tree.map(merged, states[0].carry, states[1].carry)
    inputs = states[0].inputs._replace(threshold=jnp.full(5, 0.35, jnp.float32), asks=jnp.ones(5, bool))
    state = states[0]._replace(inputs=inputs, carry=carry)
    for _ in range(LENGTH - 5):
        state = run(state, decoding)
    trace = jax.device_get(trace_of(wide_config, state))

    for row, (source, first) in enumerate(zip(sources, np.where(thrifty, 0.0, 1.0))):

        def leaves(layer, position, hidden, previous, logits, first=first):
            threshold = first if position < 5 else 0.35
            confidence, _ = gap(0)(layer, position, hidden, previous, logits)
            return (confidence, confidence >= threshold) if threshold < 1 else (1.0, False)

        matches(trace, row, decode_by_definition(source, LENGTH, leaves))


def test_rows_of_one_batch_may_differ_in_settings_and_do_not_know_each_other(decode, sources, wide):
    exit = Exit(SoftmaxGap(), 0.5)
    settings = {
        'threshold': np.array([0.35, 1.0, 0.0, 1.0, 0.6], np.float32),
        'depth': np.array([0, 0, 0, 2, 0], np.int32),
        'limit': np.array([10, 4, 10, 10, 1], np.int32),
    }
    together = decode(exit=exit, options={'rows': Rows(**settings)})
    assert together.lengths.tolist()[1] <= 4 and together.lengths[4] == 1
    for row in range(5):
        alike(together, row, decode(only=row, exit=exit, options={'rows': Rows(**settings)}), place=row)
    # A row whose rule is off is the full model's, one of a depth the static one's, one of a λ that rule's.
    full, static, certified = decode(), decode(exit=Exit(StaticDepth(), 2 / 3)), decode(exit=Exit(SoftmaxGap(), 0.35))
    assert together.tokens[1, :4].tolist() == full.tokens[1, :4].tolist()
    np.testing.assert_array_equal(together.tokens[3], static.tokens[3])
    np.testing.assert_array_equal(together.exit_layers[3], static.exit_layers[3])
    np.testing.assert_array_equal(together.tokens[0], certified.tokens[0])


def test_rows_with_their_own_rules_are_one_program(decode):
    decode(rules=Rules(no_repeat_ngram_size=2, min_new_tokens=3, forced_first_id=4, forced_last_id=5), length=10)
    before = generate_program.plain._cache_size()
    for size, least, first, length in ((3, 5, 6, 9), (1, 0, 7, 8), (4, 2, 5, 7)):
        rules = Rules(no_repeat_ngram_size=size, min_new_tokens=max(1, least), forced_first_id=first, forced_last_id=3)
        trace = decode(rules=rules, length=length)
        assert (trace.tokens[:, 0] == first).all() and trace.tokens.shape[1] == length
    for temperature, top_p in ((0.5, 0.9), (0.6, 0.8), (2.0, 0.3)):
        decode(choice=Sampled(temperature, top_p=top_p))
    assert generate_program.plain._cache_size() == before + 1


def test_no_row_says_a_run_of_tokens_twice(decode, sources, config, wide):
    for size in (1, 2, 3):
        trace = decode(rules=Rules(no_repeat_ngram_size=size))
        for row, length in enumerate(trace.lengths):
            history = [config.decoder_start_id, *trace.tokens[row, :length].tolist()]
            runs = [tuple(history[i : i + size]) for i in range(len(history) - size + 1)]
            assert len(set(runs)) == len(runs)
    assert (decode().tokens != decode(rules=Rules(no_repeat_ngram_size=2)).tokens).any()


@pytree
class ByState(PlanMaker):
    """Runs the layers whose column of the mean state is positive, whatever the neighbours do."""

    after = 1

    def __call__(self, context):
        there = context.mask[:, :, None]
        mean = jnp.sum(jnp.where(there, context.hidden, 0), axis=1) / jnp.sum(there, axis=1)
        runs, sizes = mean > 0, context.sizes
        layers = [runs[:, i : i + sizes.layers] for i in range(3)]
        encoder = [runs[:, 4 + i : 4 + i + sizes.encoder_layers] for i in range(2)]
        return Plan(*layers, *encoder)

    def flops(self, sizes):
        return 2 * sizes.width * sizes.layers


def test_a_plan_made_from_states_is_run_and_reported(decode, decode_by_definition, sources, config, wide):
    trace = decode(plan=ByState())
    assert trace.prefill.decisions.tolist() == [2 * 3] * 5
    plans_by_hand = []
    for row, source in enumerate(sources):
        source = source[source != config.pad_id]
        state = decode_by_definition.__self__.encode(source, lambda i: (i == 0, i == 0), norm=False)
        runs = state.mean(axis=0) > 0
        layers = np.stack([runs[i : i + 3] for i in range(3)])
        encoder = np.stack([runs[4 + i : 6 + i] for i in range(2)])
        encoder[:, 0] = True  # the layer that was looked at has run
        plans_by_hand.append(layers)
        for part, by_hand in zip(trace.plan, (*layers, *encoder)):
            assert part[row].tolist() == by_hand.tolist()
        reference = decode_by_definition(
            source,
            LENGTH,
            None,
            lambda position, layer, layers=layers: tuple(map(bool, layers[:, layer])),
            encoder_sub_layers=lambda layer, encoder=encoder: tuple(map(bool, encoder[:, layer])),
        )
        matches(trace, row, reference)
        alike(trace, row, decode(only=row, plan=ByState()), place=row)
    assert len({each.tobytes() for each in plans_by_hand}) > 1


@pytree
class EveryOther(Gate):
    """Remembers, through a token, how many layers opened, and closes self-attention or feed-forward by turns of that."""

    def init(self, rows, sizes):
        return jnp.zeros(rows, jnp.int32)

    def __call__(self, memory, context):
        even = (memory + context.position) % 2 == 0
        opened = jnp.stack([even, jnp.ones_like(even), ~even | (context.hidden[:, 0] > 0)], axis=1)
        return memory + opened[:, 2], opened

    def flops(self, layer, sizes):
        return 3


def test_a_gate_may_choose_sub_layers_and_remember(decode, decode_by_definition, sources, wide):
    trace = decode(gate=EveryOther(), exit=Exit(SoftmaxGap(), 0.6))
    for row, source in enumerate(sources):
        memory = {}

        def sub_layers(position, layer, x, memory=memory):
            if layer == 0:
                memory['opened'] = 0
            even = (memory['opened'] + position) % 2 == 0
            feeds = (not even) or x[0, 0] > 0
            memory['opened'] += feeds
            return bool(even), True, bool(feeds)

        matches(trace, row, decode_by_definition(source, LENGTH, gap(0.6), sub_layers))
        alike(trace, row, decode(only=row, gate=EveryOther(), exit=Exit(SoftmaxGap(), 0.6)), place=row)
        # Three operations are one unit of D, and the measure of a gap none: a unit for each layer entered.
        assert trace.work.decisions[row].tolist() == trace.exit_layers[row].tolist()
    assert 0 < trace.work.self_attention.sum() < trace.work.cross_attention.sum()


def test_log_probabilities_are_those_of_the_logits_at_the_exit(decode, decode_by_definition, sources, wide):
    parts = {'exit': Exit(SoftmaxGap(), 0.35), 'rules': Rules(no_repeat_ngram_size=2)}
    trace = decode(**parts, options={'log_probabilities': True})
    equal(trace, decode(**parts))
    for row, source in enumerate(sources):
        seen = {}

        def leaves(layer, position, hidden, previous, logits, seen=seen, row=row):
            seen[position] = log_softmax(logits)
            confidence, left = gap(0.35)(layer, position, hidden, previous, logits)
            return confidence, left, trace.tokens[row, position]

        decode_by_definition(source, int(trace.lengths[row]), leaves)
        for position in range(trace.lengths[row]):
            assert np.isclose(trace.log_probabilities[row, position], seen[position][trace.tokens[row, position]], atol=1e-5)


def test_beams_have_no_state_and_no_settings_of_rows(config, params, sources):
    decoding = decoding_of(choice=Beam(2))
    with pytest.raises(ValueError, match='beam search'):
        begin(config, params, sources, there(config, sources), decoding)
    with pytest.raises(ValueError, match='beam search'):
        generate(config, params, sources, there(config, sources), decoding, rows=Rows(limit=np.ones(5, np.int32)))


@pytest.mark.parametrize(
    'measure, form',
    [
        (SoftmaxGap(), Constant()),
        (SoftmaxGap(), Decaying(4.0)),
        (SoftmaxGap(), ScaledDecaying(4.0)),
        (SoftmaxGap(FixedPruning(keep=4)), Constant()),
        (SoftmaxGap(FrequentIds(FREQUENT, 5)), Constant()),
        (StateSimilarity(), Constant()),
        (Classifier(KERNEL, np.zeros(1)), Constant()),
        (StaticDepth(), Constant()),
        (StaticDepth(), Decaying(4.0)),
    ],
)
def test_a_higher_dial_leaves_no_earlier(decode, measure, form, wide):
    # Of the first token, whose scores no earlier exit has changed.
    layers = [
        decode(exit=Exit(measure, dial, form), length=1).exit_layers[:, 0] for dial in (0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
    ]
    assert all((one <= other).all() for one, other in zip(layers, layers[1:]))
    assert (layers[-1] == 3).all() and (layers[0] < 3).any()


@pytree
class Sometimes(Gate):
    """Opens where its keys say so, or always at a dial of 1, which it need not know."""

    often: Any

    dial = 'often'

    def __call__(self, memory, context):
        return memory, jax.vmap(jax.random.uniform)(context.keys) < 0.3


def test_a_dial_of_one_runs_everything_whatever_the_decision_knows_of_it_and_the_others_stay(decode, wide):
    full = decode()
    equal(decode(gate=Sometimes(jnp.ones(()))), full)
    equal(decode(gate=Sometimes(1.0)), full)
    assert decode(gate=Sometimes(0.5)).work.feed_forward.sum() < full.work.feed_forward.sum()
    # An exit at 1 is off, and the plan beside it is not.
    planned = decode(plan=plans.Uniform(2 / 3))
    equal(decode(exit=Exit(SoftmaxGap(), 1.0), plan=plans.Uniform(2 / 3)), planned)
    assert planned.work.feed_forward.max() == 2


@pytree
class NoPlan(PlanMaker):
    gives: Any

    def __call__(self, context):
        return self.gives


@pytree
class HalfAGate(Gate):
    def __call__(self, memory, context):
        return memory, jnp.ones((context.hidden.shape[0], 2), bool)


@pytest.mark.parametrize(
    'parts, message',
    [
        ({'plan': NoPlan(None)}, 'NoPlan gave None; expected a Plan'),
        ({'plan': NoPlan(mixed_plan(slice(0, 3)))}, r'NoPlan gave bool \(3, 3\) as self_attention; expected bool \[5, 3\]'),
        ({'gate': HalfAGate()}, r'HalfAGate gave bool \(5, 2\); expected bool \[5\] or \[5, 3\]'),
    ],
)
def test_what_is_no_plan_and_no_gate_is_refused_in_one_line(decode, parts, message):
    with pytest.raises(ValueError, match=message) as error:
        decode(**parts)
    assert '\n' not in str(error.value)
