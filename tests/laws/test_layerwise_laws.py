"""A policy that decides layer by layer, in float64: each decision is made of the layer before, under those before it."""

import dataclasses
import itertools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import decide, generate, read
from calm_jax.depth import plans
from calm_jax.depth.layerwise import Course
from calm_jax.depth.policy import TOKEN_CHOICES, Decisions, LayerwisePolicy, log_likelihood, parts_of, policy_flops
from calm_jax.metrics import cost, plan_cost
from calm_jax.models.transformer import Transformer
from calm_jax.tasks import Labels, Spans
from calm_jax.training.estimators import self_critical
from calm_jax.training.goals import NextTokens
from calm_jax.training.plan_loss import caller, followed
from calm_jax.training.plan_loss import read as read_batch
from calm_jax.training.policy import SHARES, chances_of, policy_stage
from tests.laws.definitions import LENGTH
from tests.laws.test_policy_laws import kept_by_hand
from tests.laws.test_task_laws import head_of
from tests.laws.test_work_laws import LLAMA, T5, policy
from tests.parameters import random_params

HEAD = ('scale', 'shift', 'hidden_kernel', 'hidden_bias', 'kernel', 'bias')


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, 'float64'), tree)


def of_float64(config):
    config = dataclasses.replace(config, dtype='float64')
    return config, wide(random_params(config))


def by_hand(head, layer, states, level):
    """(whether attention and feed-forward of the next layer run, the choice of tokens), of states [S, D], in NumPy."""
    kappa = np.clip(np.log(level) - np.log1p(-level), -80, 80)
    x = states.mean(axis=0)
    x = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6) * np.asarray(head.scale)[layer] + head.shift[layer]
    scores = np.asarray(np.maximum(x @ head.hidden_kernel + head.hidden_bias, 0) @ head.kernel + head.bias)
    shares = np.array([choice.share for choice in TOKEN_CHOICES])
    choice = np.argmax(scores[-len(TOKEN_CHOICES) :] + 10 * kappa * shares)
    return tuple(bool(each) for each in scores[2 * layer + 2 : 2 * layer + 4] + kappa >= 0), int(choice)


def test_each_layer_is_decided_from_the_one_before_under_the_dial_and_at_one_all_run(
    config, params, sources, decode_by_definition
):
    head, definition, encoders = policy(config, layerwise=True), decode_by_definition.__self__, config.num_encoder_layers
    wider, params = dataclasses.replace(config, dtype='float64'), wide(params)

    @jax.jit
    def run(level):
        decoding = Decoding(limits=Limits(max_new_tokens=LENGTH), plan=dataclasses.replace(head, level=level))
        return generate(wider, params, sources, sources != config.pad_id, decoding, capacity=16)

    seen = set()
    for level in (0.3, 0.5, 0.8, 1.0):
        trace = jax.device_get(run(level))
        for row, source in enumerate(sources):
            source = source[source != config.pad_id]
            places, encoder, decoder = np.arange(len(source)), {0: (True, True)}, {}
            for layer in range(encoders) if level < 1 else ():
                states = definition.encode(source, encoder.get, norm=False, kept=places if layer else None, layers=layer + 1)
                runs, choice = by_hand(head, layer, states, level)
                if layer == 0:
                    protected = (source == config.eos_id) | np.isin(np.arange(len(source)), (0, len(source) - 1))
                    places = kept_by_hand(choice, source, protected)
                (decoder if layer + 1 == encoders else encoder)[(layer + 1) % encoders] = runs

            def sub_layers(position, layer, entering, decoder=decoder, level=level):
                if layer not in decoder:
                    assert position == 0  # decided once
                    decoder[layer] = by_hand(head, encoders + layer - 1, entering, level)[0] if level < 1 else (True, True)
                attention, feed_forward = decoder[layer]
                return attention, attention, feed_forward

            within = (lambda layer: (True, True)) if level == 1 else encoder.get
            reference = decode_by_definition(source, LENGTH, kept=places, sub_layers=sub_layers, encoder_sub_layers=within)
            assert trace.tokens[row, : trace.lengths[row]].tolist() == reference.tokens
            assert trace.prefill.dropped_tokens[row] == len(source) - len(places)
            assert trace.plan.source[row].nonzero()[0].tolist() == places.tolist()
            runs = [decoder[layer] for layer in range(config.num_decoder_layers)]
            np.testing.assert_array_equal(np.stack([trace.plan.self_attention, trace.plan.feed_forward], -1)[row], runs)
            seen.add(tuple(itertools.chain(*runs, *map(within, range(1, encoders)))))
    assert len(seen) > 5 and (True,) * 8 in seen


def test_a_decoder_only_model_decides_each_layer_from_its_prompt_which_is_read_in_full():
    config, params = of_float64(LLAMA)
    plan, lengths = policy(LLAMA, layerwise=True), (5, 2, 1, 4, 3)
    prompts = np.random.default_rng(7).integers(2, 14, (len(lengths), 5))
    mask = np.arange(5) >= 5 - np.array(lengths)[:, None]
    trace = generate(config, params, prompts * mask, mask, Decoding(limits=Limits(max_new_tokens=4), plan=plan))
    in_full = jax.jit(lambda params: Transformer(config).apply({'params': params}, None, None, prompts, mask, method='decode'))
    states = jax.device_get(in_full(params))
    for row, length in enumerate(lengths):
        runs = [(True, True)] + [by_hand(plan, layer, x[row, 5 - length :], 0.5)[0] for layer, x in enumerate(states[:-1])]
        made = np.stack([trace.plan.self_attention[row], trace.plan.feed_forward[row]], axis=-1)
        assert made.tolist() == [list(each) for each in runs]
        assert trace.prefill.prompt_last[row] == config.num_decoder_layers - 1
    assert 0 < np.mean(trace.plan.feed_forward[:, 1:]) < 1 and 0 < np.mean(trace.plan.self_attention[:, 1:]) < 1


def measured(config, params, plan, batch, **options):
    """What an evaluation says of a policy's likeliest plans, sums over rows."""
    heads = {'policy': {name: getattr(plan, name) for name in HEAD}, **options.pop('heads', {})}
    stage = policy_stage(config, params, cast(Any, None), heads=heads, layerwise=True, **options)
    return jax.device_get(jax.jit(stage.measure)(stage.params, stage.frozen, batch))


def check_runs(sums, plan):
    for stack, parts in (
        ('decoder', (plan.self_attention, plan.feed_forward)),
        ('encoder', (plan.encoder_attention, plan.encoder_feed_forward)),
    ):
        np.testing.assert_array_equal(sums[f'{stack}_runs'], np.stack(parts, axis=-1).sum(axis=0))


@pytest.mark.parametrize('config', (T5, LLAMA), ids=('encoder-decoder', 'decoder-only'))
def test_the_plan_the_loss_and_the_price_that_are_trained_are_those_of_what_is_decoded(config):
    (config, params), rng = of_float64(config), np.random.default_rng(2)
    source, target = (rng.integers(2, 14, (3, length)).astype(np.int32) for length in (9, 4))
    plan = policy(config, layerwise=True)
    decoding = Decoding(limits=Limits(max_new_tokens=4), plan=plan)
    trace = generate(config, params, source, np.ones_like(source, bool), decoding, forced=target, log_probabilities=True)
    if config.decoder_only:
        tokens = np.concatenate([source, target], axis=1)
        weights = np.concatenate([np.zeros((3, 8)), np.ones((3, 4))], axis=1)
        batch = {'decoder_input_tokens': tokens[:, :-1], 'decoder_target_tokens': tokens[:, 1:]}
    else:
        begun, weights = np.full((3, 1), config.decoder_start_id), np.ones((3, 4))
        batch = {'decoder_input_tokens': np.concatenate([begun, target[:, :-1]], axis=1), 'decoder_target_tokens': target}
        batch |= {'encoder_input_tokens': source, 'encoder_mask': np.ones_like(source, bool)}
        assert trace.prefill.dropped_tokens.any()
    sums = measured(config, params, plan, {**batch, 'decoder_loss_weights': weights})
    check_runs(sums, trace.plan)
    np.testing.assert_allclose(sums['loss'], -np.sum(np.mean(trace.log_probabilities[:, :4], axis=1)), rtol=1e-6)
    counted = np.sum(cost.exact(config, [9] * 3, trace.work, trace.prefill).total)
    whole = cost.at_full_depth(config, [9], [4])[0]
    np.testing.assert_allclose(sums['cost'], counted / whole, rtol=1e-5)


@pytest.mark.parametrize(
    'config, task', ((T5, Spans()), (LLAMA, Labels(('a', 'b', 'c')))), ids=('encoder-decoder spans', 'decoder-only labels')
)
def test_a_task_is_trained_by_the_plan_that_its_text_is_read_within_and_its_price_is_what_that_costs(config, task):
    (config, params), length = of_float64(config), 11
    head, plan, spans = wide(head_of(config, task)), policy(config, layerwise=True), isinstance(task, Spans)
    tokens = np.random.default_rng(7).integers(2, 14, (1, length))
    tokens[:, -1] = config.eos_id
    there = np.ones((1, length), bool)
    begun = np.concatenate([[[config.decoder_start_id]], tokens[:, :-1]], axis=1)
    batch = {
        'encoder_input_tokens': tokens,
        'encoder_mask': there,
        'decoder_input_tokens': tokens if config.decoder_only else begun,
        'decoder_mask': there,
        'task_targets': np.array([[3, 6]] if spans else [[1]]),
        'task_weights': np.ones(1),
    }
    made, whole = (
        read(config, params, head, decide(config, params, tokens, there, decoding), decoding, task=task)
        for decoding in (Decoding(plan=plan), Decoding())
    )
    sums = measured(config, params, plan, batch, task=task, heads={'task': head})
    check_runs(sums, made.plan)
    log_chances = jax.nn.log_softmax(made.scores[0].T if spans else made.scores[0, None], axis=-1)
    expected = -np.mean([log_chances[side, target] for side, target in enumerate(batch['task_targets'][0])])
    np.testing.assert_allclose(sums['loss'], expected, rtol=1e-6)
    counted, full = (
        # What the head itself takes is in the count and in no price.
        cost.exact(
            config, [1 if config.decoder_only else length], each.work._replace(decisions=0 * each.work.decisions), each.prefill
        ).total[0]
        for each in (made, whole)
    )
    np.testing.assert_allclose(sums['cost'], counted / full, rtol=1e-5)


def test_the_gradients_of_draws_are_on_average_those_of_the_mean_over_every_plan():
    """Of two encoder layers and one of the decoder, whose choices depend on the draws before: 2² · 7 · 2² plans."""
    config, params = of_float64(dataclasses.replace(T5, num_decoder_layers=1))
    head = {name: jnp.asarray(getattr(policy(config, layerwise=True), name)) for name in HEAD}
    head |= {'kernel': head['kernel'] / 8, 'bias': head['bias'] / 4}
    every = list(itertools.product((False, True), (False, True), range(len(TOKEN_CHOICES)), (False, True), (False, True)))
    decisions = Decisions(
        jnp.array([[(True, True), each[:2]] for each in every]),
        jnp.array([[each[3:]] for each in every]),
        jnp.array([each[2] for each in every], jnp.int32),
    )
    rng, sizes, parts = np.random.default_rng(5), config.sizes, parts_of(None, config.sizes)
    source, target = (rng.integers(2, 14, (1, length)).astype(np.int32) for length in (8, 2))

    def batch_of(rows):
        one = {
            'encoder_input_tokens': source,
            'encoder_mask': np.ones((1, 8), bool),
            'decoder_input_tokens': np.array([[config.decoder_start_id, target[0, 0]]]),
            'decoder_target_tokens': target,
            'decoder_loss_weights': np.ones((1, 2)),
        }
        return {name: jnp.repeat(jnp.asarray(each), rows, axis=0) for name, each in one.items()}

    batch, call, rows = batch_of(len(every)), caller(config, params), len(every)
    made = LayerwisePolicy(sizes.encoder_layers, sizes.layers)

    def mean(head, objective):
        seen = read_batch(call, config, batch)

        def decide(layer, states, mask):
            return made.apply({'params': head}, layer, states, mask), decisions

        states, course = followed(call, config, batch, seen, Course(plans.full(rows, sizes), decide, seen.context.protected))
        likelihood = jnp.exp(log_likelihood(course.logits, course.decisions(), parts))
        lengths = seen.source_tokens, seen.new_tokens
        prices = plan_cost.prices(config, *lengths, SHARES, policy_flops(sizes, True), layerwise=True)
        of_plans = NextTokens().losses(call, None, states, batch), plan_cost.expected(prices, chances_of(decisions), False)
        value = jnp.where(objective == 0, *of_plans)
        return jnp.sum(likelihood * value), (jnp.sum(likelihood), value)

    exact = jax.jit(jax.grad(mean, has_aux=True))
    stage = policy_stage(config, params, cast(Any, None), estimator=self_critical, layerwise=True, heads={'policy': head})
    many, gradients = batch_of(2_000), jax.jit(stage.gradients)
    draws = [gradients(stage.params, stage.frozen, many, jax.random.key(number))[1] for number in range(10)]
    for objective, name in enumerate(('loss', 'cost')):
        expected, (total, value) = exact(head, objective)
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        assert len(np.unique(np.round(value, 9))) > 30
        for leaf in HEAD:
            each = np.stack([draw[name][leaf] for draw in draws]) / 2_000
            average, error = np.mean(each, axis=0), np.std(each, axis=0, ddof=1) / np.sqrt(len(each))
            assert (np.abs(average - expected[leaf]) <= 6 * error + 1e-6).all()
        assert np.abs(expected['bias']).max() > 10 * error.max()  # which would be seen if it were missing
