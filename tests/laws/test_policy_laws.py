"""A policy's plans, in float64: what they run is what the definition runs, and the dial orders them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.windows import decode_windows
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.decoding.packing import Packing
from calm_jax.depth.policy import (
    TOKEN_CHOICES,
    Decisions,
    Logits,
    PolicyPlan,
    kept,
    likeliest,
    log_likelihood,
    parts_of,
    tilted,
)
from calm_jax.flight import decode_batches, fly_window
from calm_jax.models.transformer import Transformer
from tests.laws.definitions import LENGTH
from tests.laws.test_work_laws import LLAMA, policy
from tests.parameters import random_params

LEVELS = (0.0, 0.2, 0.5, 0.8, 0.97, 1.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def decode(config, params, sources):
    """Decodes sources within a policy's plans."""
    params = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)
    config = dataclasses.replace(config, dtype='float64')

    def run(plan, sources=sources, **options):
        decoding = Decoding(limits=Limits(max_new_tokens=LENGTH), plan=plan)
        return jax.device_get(generate(config, params, sources, sources != config.pad_id, decoding, **options))

    return run


def by_hand(head, state):
    """Scores of one input from the states [S, D] of its tokens, in NumPy."""
    x = state.mean(axis=0)
    x = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6) * head.scale + head.shift
    return np.maximum(x @ head.hidden_kernel + head.hidden_bias, 0) @ head.kernel + head.bias


def kept_by_hand(choice, source, protected):
    """Places of the tokens that stay, counted one by one."""
    numerator, denominator, evenly = TOKEN_CHOICES[choice]
    free = [place for place in range(len(source)) if not protected[place]]
    drop = min(len(source) - -(-len(source) * numerator // denominator), len(free))
    if evenly:
        gone = [place for rank, place in enumerate(free) if (rank + 1) * drop // len(free) > rank * drop // len(free)]
    else:
        gone = free[len(free) - drop :]
    return np.array([place for place in range(len(source)) if place not in gone])


@pytest.mark.parametrize('level', LEVELS)
def test_a_policy_runs_what_it_finds_likeliest_under_its_dial(decode, decode_by_definition, sources, config, level):
    plan = policy(config, level)
    trace, definition = decode(plan), decode_by_definition.__self__
    dropped = 0
    for row, source in enumerate(sources):
        source = source[source != config.pad_id]
        parts, places = {}, None
        if level < 1:
            kappa = np.clip(np.log(max(level, 1e-300)) - np.log1p(-level), -80, 80)
            scores = np.asarray(by_hand(plan, definition.encode(source, norm=False, layers=1)))
            runs = np.array(scores[: -len(TOKEN_CHOICES)].reshape(-1, 2) + kappa >= 0)
            runs[0] = True  # the layer that the policy read after
            shares = np.array([choice.share for choice in TOKEN_CHOICES])
            choice = int(np.argmax(scores[-len(TOKEN_CHOICES) :] + 10 * kappa * shares))
            protected = (source == config.eos_id) | np.isin(np.arange(len(source)), (0, len(source) - 1))
            places = kept_by_hand(choice, source, protected)
            decoder = runs[config.num_encoder_layers :]
            parts = {
                'sub_layers': lambda position, layer, decoder=decoder: (
                    decoder[layer, 0],
                    decoder[layer, 0],
                    decoder[layer, 1],
                ),
                'encoder_sub_layers': lambda layer, runs=runs: tuple(runs[layer]),
            }
            assert trace.plan.source[row].nonzero()[0].tolist() == places.tolist()
            dropped += len(source) - len(places)
        reference = decode_by_definition(source, LENGTH, kept=places, **parts)
        assert trace.tokens[row, : trace.lengths[row]].tolist() == reference.tokens
        assert trace.prefill.dropped_tokens[row] == (0 if places is None else len(source) - len(places))
    assert (dropped > 0) == (level < 1)


def test_the_dial_orders_plans_and_one_is_the_full_model(decode, config):
    traces = [decode(policy(config, level)) for level in LEVELS]
    plans = [trace.plan for trace in traces[:-1]]
    for less, more in zip(plans, plans[1:]):
        for one, other in zip(less[:5], more[:5]):
            assert (one <= other).all()
        assert (less.source.sum(axis=1) <= more.source.sum(axis=1)).all()
    assert len({tuple(plan.self_attention.sum(axis=0).tolist()) for plan in plans}) > 2
    full = decode(None)
    assert traces[-1].plan is None
    np.testing.assert_array_equal(traces[-1].tokens, full.tokens)
    # A dial that is a number of the program is off in the same way.
    within = jax.jit(lambda level: policy(config, level))(jnp.float32(1))
    traced = decode(dataclasses.replace(within, level=jnp.float32(1)))
    np.testing.assert_array_equal(traced.tokens, full.tokens)


def test_the_tilt_is_monotone_for_every_policy(config):
    rng, sizes = np.random.default_rng(0), config.sizes
    shape = (200, sizes.encoder_layers, 2), (200, sizes.layers, 2), (200, len(TOKEN_CHOICES))
    logits = Logits(*(jnp.asarray(4 * rng.normal(size=each), jnp.float32) for each in shape))
    shares = np.array([choice.share for choice in TOKEN_CHOICES])
    before = None
    for level in np.linspace(0, 1, 41):
        now = likeliest(tilted(logits, level))
        share = shares[np.asarray(now.tokens)]
        if before is not None:
            assert (np.asarray(before[0].encoder) <= np.asarray(now.encoder)).all()
            assert (np.asarray(before[0].decoder) <= np.asarray(now.decoder)).all()
            assert (before[1] <= share).all()
        before = now, share
    np.testing.assert_array_equal(likeliest(tilted(logits, 0.5)).decoder, np.asarray(logits.decoder) >= 0)


@pytest.mark.parametrize('choice', range(len(TOKEN_CHOICES)), ids=[choice.name for choice in TOKEN_CHOICES])
def test_a_choice_keeps_its_share_and_what_is_protected(choice):
    rng = np.random.default_rng(choice)
    width = 24
    lengths = np.array([1, 2, 3, 7, 10, 20, 24])
    mask = np.arange(width) < lengths[:, None]
    protected = mask & ((np.arange(width) == 0) | (rng.random(mask.shape) < 0.1) | (np.arange(width) == lengths[:, None] - 1))
    stays = np.asarray(kept(jnp.full(len(lengths), choice, jnp.int32), jnp.asarray(mask), jnp.asarray(protected)))
    for row, length in enumerate(lengths):
        there = kept_by_hand(choice, np.zeros(length), protected[row])
        assert stays[row].nonzero()[0].tolist() == there.tolist()
        assert len(there) >= max(1, TOKEN_CHOICES[choice].share * length - 1e-9)
    assert not (protected & ~stays).any() and not (stays & ~mask).any()


@pytest.mark.parametrize('layerwise', (False, True), ids=('at once', 'layer by layer'))
def test_a_plan_does_not_depend_on_neighbours_or_padding(decode, config, sources, layerwise):
    plan = policy(config, layerwise=layerwise)
    together, wider = decode(plan), decode(plan, np.pad(sources, ((0, 0), (0, 3)), constant_values=config.pad_id))
    for row in range(len(sources)):
        alone = decode(plan, sources[row : row + 1], example_ids=np.array([row], np.int32))
        for other in (together, wider):
            assert other.tokens[row].tolist() == alone.tokens[0].tolist() + [0] * (LENGTH - alone.tokens.shape[1])
            for one, part in zip(other.plan[:5], alone.plan[:5]):
                assert one[row].tolist() == part[0].tolist()


@pytest.mark.parametrize('layerwise', (False, True), ids=('at once', 'layer by layer'))
def test_rows_that_come_in_by_what_their_plans_keep_are_what_they_are_alone(config, params, decode, layerwise):
    """In flight, cut to what is kept and packed for every sub-layer, and, decided at once, in batches, cut too, beside arrays
    of the whole width."""
    rng, plan = np.random.default_rng(0), policy(config, 0.4, layerwise=layerwise)
    texts = [rng.integers(2, 14, rng.integers(1, 15)).tolist() for _ in range(13)]
    [window] = decode_windows(texts, 4, max_source_length=16, pad_id=config.pad_id, eos_id=config.eos_id)
    assert {batch.tokens.shape[1] for batch in window} == {8, 16}
    wide = dataclasses.replace(config, dtype='float64'), jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)
    decoding = Decoding(limits=Limits(max_new_tokens=LENGTH, max_source_length=16), plan=plan)
    options = {
        'example_ids': lambda rows: np.maximum(rows, 0).astype(np.int32),
        'settings': lambda rows: None,
        'wanted': set(range(len(texts))),
    }
    packing = Packing((), (2,), sub_layers=True)
    flown = list(fly_window(*wide, window, decoding, 4, packing=packing, **options))
    assert min(width for landing in flown for width in landing.widths) == 8
    batched = [] if layerwise else [decode_batches(*wide, window, decoding, **options)]
    found = [
        {row: (landing.trace, at) for landing in landings for at, row in enumerate(landing.rows.tolist())}
        for landings in (flown, *batched)
    ]
    padded = np.full((len(texts), 16), config.pad_id, np.int32)
    for row, text in enumerate(texts):
        padded[row, : len(text) + 1] = [*text, config.eos_id]
    whole = decode(plan, padded)
    assert whole.prefill.dropped_tokens.any()
    for rows in found:
        assert sorted(rows) == list(range(len(texts)))
        for row, (trace, at) in rows.items():
            assert trace.tokens[at, :LENGTH].tolist() == whole.tokens[row].tolist()
            assert trace.prefill.dropped_tokens[at] == whole.prefill.dropped_tokens[row]
            width = trace.plan.source.shape[1]
            assert trace.plan.source[at].tolist() == whole.plan.source[row, :width].tolist() + [False] * (width - 16)
            assert trace.plan.choice[at] == whole.plan.choice[row]
            for one, part in zip((*trace.prefill, *trace.plan[:5]), (*whole.prefill, *whole.plan[:5])):
                np.testing.assert_array_equal(one[at], part[row])
            for one, part in zip(trace.work, whole.work):
                np.testing.assert_array_equal(one[at, :LENGTH], part[row])


def test_the_whole_sequence_at_once_says_what_was_decoded_token_by_token(config, params, sources, decode):
    plan = policy(config, 0.4)
    trace = decode(plan)
    assert trace.prefill.dropped_tokens.any()
    model = Transformer(dataclasses.replace(config, dtype='float64'))
    run = jax.jit(model.apply, static_argnames='method')
    call = partial(run, {'params': jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)})
    encoded = call(sources, sources != config.pad_id, trace.plan, method='encode')
    said = np.concatenate([np.full((len(sources), 1), config.decoder_start_id), trace.tokens], axis=1)[:, :-1]
    states = call(encoded, trace.plan.source, said, None, trace.plan, method='decode')
    likeliest = np.argmax(call(states[-1], method='unembed'), axis=-1)
    for row, length in enumerate(trace.lengths):
        assert likeliest[row, :length].tolist() == trace.tokens[row, :length].tolist()


def test_a_decoder_only_model_decides_from_its_prompt():
    config = dataclasses.replace(LLAMA, dtype='float64')
    params = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), random_params(config))
    prompts = np.random.default_rng(7).integers(2, 14, (6, 5)).astype(np.int32)
    plan = policy(LLAMA)
    trace = generate(config, params, prompts, None, Decoding(limits=Limits(max_new_tokens=6), plan=plan))
    runs = np.asarray(trace.plan.self_attention)
    assert trace.plan.source is None and runs[:, 0].all() and 0 < runs[:, 1:].mean() < 1


def test_a_part_that_is_not_decided_always_runs(decode, config, sources):
    for part, free in (('encoder', slice(3, 5)), ('decoder', slice(0, 3))):
        made = decode(policy(config, 0.1, parts=(part,))).plan
        for index, runs in enumerate(made[:5]):
            assert runs.all() == (index not in range(*free.indices(5)))
        assert made.source.sum() == np.sum(sources != config.pad_id)
    made = decode(policy(config, 0.1, parts=('tokens',))).plan
    assert all(runs.all() for runs in made[:5]) and made.source.sum() < np.sum(sources != config.pad_id)


def test_the_log_likelihood_sums_to_one_over_all_plans_and_its_gradient_is_finite_differences(config):
    """Of a model of one encoder and one decoder layer: 2 · 2 decisions of the decoder, those of the choice of tokens."""
    sizes = config.sizes._replace(encoder_layers=1, layers=1)
    rng = np.random.default_rng(1)
    logits = Logits(rng.normal(size=(1, 1, 2)), rng.normal(size=(1, 1, 2)), rng.normal(size=(1, len(TOKEN_CHOICES))))
    parts = parts_of(None, sizes)

    def likelihood(flat, decisions):
        unflat = Logits(logits.encoder, flat[:2].reshape(1, 1, 2), flat[2:][None])
        return log_likelihood(unflat, decisions, parts)[0]

    likelihood = jax.jit(likelihood)
    slope = jax.jit(jax.value_and_grad(likelihood))
    flat, total, score = jnp.concatenate([logits.decoder.ravel(), logits.tokens.ravel()]), 0.0, 0.0
    for attention in (False, True):
        for feed in (False, True):
            for choice in range(len(TOKEN_CHOICES)):
                decisions = Decisions(jnp.ones((1, 1, 2), bool), jnp.array([[[attention, feed]]]), jnp.array([choice]))
                value, gradient = slope(flat, decisions)
                step = 1e-6 * np.eye(len(flat))
                numeric = [(likelihood(flat + e, decisions) - likelihood(flat - e, decisions)) / 2e-6 for e in step]
                np.testing.assert_allclose(gradient, numeric, atol=1e-7)
                total, score = total + np.exp(value), score + np.exp(value) * gradient
    np.testing.assert_allclose(total, 1, atol=1e-12)
    np.testing.assert_allclose(score, 0, atol=1e-12)  # the score has no mean


@pytest.mark.parametrize(
    'change, message',
    (
        ({'level': 1.5}, 'policy_level is 1.5; expected a number from 0 to 1'),
        ({'level': -0.1}, 'policy_level is -0.1; expected a number from 0 to 1'),
    ),
)
def test_a_policy_out_of_range_is_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(policy(config), **change)


def test_a_policy_of_another_model_or_of_tokens_that_there_are_not_is_refused(config):
    plan: PolicyPlan = policy(config)
    plan.check(config.sizes)
    with pytest.raises(ValueError, match=r'the policy head is \[16, 17\], of another model; expected \[16, 19\] for 2 \+ 4'):
        plan.check(config.sizes._replace(layers=4))


@pytest.mark.parametrize(
    'parts, message',
    (
        (('heads',), "parts holds 'heads'; expected some of encoder, decoder, tokens"),
        ('encoder', "parts is 'encoder'; expected a list of encoder, decoder, tokens, or None for all"),
        ((), 'expected a list of encoder, decoder, tokens, or None for all'),
        (('tokens',), 'parts holds tokens, and this model cannot drop any: it has no encoder'),
    ),
)
def test_parts_that_there_are_not_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        parts_of(parts, LLAMA.sizes)


def test_tokens_of_an_encoder_that_reads_nearby_ones_are_not_dropped(config):
    local = dataclasses.replace(config, encoder_attention='local').sizes
    with pytest.raises(ValueError, match='this model cannot drop any: its encoder reads nearby tokens'):
        parts_of(('tokens',), local)
    assert not parts_of(None, local).tokens and parts_of(None, local).encoder.any()


def test_batches_and_flights_go_on_with_a_dial_at_one_and_searches_within_a_policy(config, params):
    """Where a plan is off, or a search has no state that waits for it, nothing is decided before."""
    texts = [[3, 5, 7], [4], [6, 8, 9, 2], [5, 5], [7, 3, 4]]
    layout = {'max_source_length': 8, 'pad_id': config.pad_id, 'eos_id': config.eos_id}
    [window] = decode_windows(texts, 2, **layout)
    options = {
        'example_ids': lambda rows: np.maximum(rows, 0).astype(np.int32),
        'settings': lambda rows: None,
        'wanted': set(range(len(texts))),
    }

    def said(landings):
        return {row: landing.trace.tokens[at].tolist() for landing in landings for at, row in enumerate(landing.rows.tolist())}

    limits = Limits(max_new_tokens=6, max_source_length=8)
    full, at_one = Decoding(limits=limits), Decoding(limits=limits, plan=policy(config, 1.0))
    expected = said(decode_batches(config, params, window, full, **options))
    assert said(decode_batches(config, params, window, at_one, **options)) == expected
    assert said(fly_window(config, params, window, at_one, 2, **options)).keys() == expected.keys()
    searching = dataclasses.replace(full, choice=Beam(size=2), plan=policy(config, 0.2))
    assert said(decode_batches(config, params, window, searching, **options)) != expected
