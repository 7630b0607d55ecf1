"""A policy's stage: estimators against the enumeration of every plan, exact costs, and a policy that learns."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calm_jax
from calm_jax.decoding.codec import from_json, to_json
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.depth.plans import GivenPlan
from calm_jax.depth.policy import TOKEN_CHOICES, Decisions, Logits, Policy, PolicyPlan, log_likelihood, parts_of
from calm_jax.metrics import cost, plan_cost
from calm_jax.models.joined import split
from calm_jax.training.constrained import DualAscent, FixedWeight
from calm_jax.training.estimators import Draws, leave_one_out, self_critical, straight_through
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.plan_loss import caller, nats, read, weighted
from calm_jax.training.policy import SHARES, chances, chances_of, entropy, fed_ones, policy_stage
from calm_jax.training.policy_optimizer import AVERAGED, Noise
from calm_jax.training.train_loop import LoopOptions, fit
from calm_jax.types import Plan, Sizes
from tests.laws.test_work_laws import LLAMA, T5, policy
from tests.parameters import random_params

SIZES = Sizes(layers=1, width=8, vocabulary=14, embedding=8, encoder_layers=2, drops_tokens=True)
CHOICES = len(TOKEN_CHOICES)


def every_plan():
    """Of one decoder layer and two encoder layers, of which the first always runs: 2⁴ · 7 decisions."""
    plans = list(itertools.product((False, True), (False, True), (False, True), (False, True), range(CHOICES)))
    encoder = np.array([[[True, True], each[:2]] for each in plans])
    decoder = np.array([[each[2:4]] for each in plans])
    return Decisions(jnp.asarray(encoder), jnp.asarray(decoder), jnp.array([each[4] for each in plans]))


@pytest.fixture
def toy():
    """(logits of one input, a loss of every decision that no sum of single ones is, the exact gradient of its mean)."""
    rng = np.random.default_rng(0)
    logits = Logits(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((1, 2, 2), (1, 1, 2), (1, CHOICES))))
    weights = jnp.asarray(rng.normal(size=(4 + 2 + CHOICES,)), jnp.float32)

    def loss_of(decisions):
        flat = chances_of(decisions)
        x = jnp.concatenate([each.reshape(each.shape[0], -1) for each in flat], axis=1)
        return jnp.sin(x @ weights) + x[:, 2] * x[:, 4] + 0.5 * x[:, 5] * x[:, 8]

    plans, parts = every_plan(), parts_of(None, SIZES)

    def mean(logits):
        wide = jax.tree.map(lambda each: jnp.broadcast_to(each, (len(plans.tokens), *each.shape[1:])), logits)
        return jnp.sum(jnp.exp(log_likelihood(wide, plans, parts)) * loss_of(plans))

    return logits, loss_of, parts, jax.grad(mean)(logits)


@pytest.mark.parametrize('estimator', (self_critical, leave_one_out), ids=lambda each: each.__name__)
def test_an_estimator_is_on_average_the_gradient_of_the_mean_over_every_plan(toy, estimator):
    logits, loss_of, parts, exact = toy
    rows = 20_000

    def estimate(logits, key):
        wide = jax.tree.map(lambda each: jnp.broadcast_to(each, (rows, *each.shape[1:])), logits)

        def keys(number):
            return jax.random.split(jax.random.fold_in(key, number), rows)

        return jnp.mean(estimator(Draws(wide, parts, loss_of, lambda *_: None, keys)).objective)

    made = jax.jit(jax.vmap(jax.grad(estimate), (None, 0)))(logits, jax.random.split(jax.random.key(5), 20))
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(exact)):
        mean, error = np.mean(one, axis=0), np.std(one, axis=0) / np.sqrt(len(one))
        assert (np.abs(mean - other) <= 5 * error + 1e-6).all()
        assert np.abs(other).max() > 0.01 > 5 * error.max()


def test_straight_through_gates_have_a_gradient_where_draws_have_none(toy):
    logits, loss_of, parts, exact = toy

    def soft(gates, decisions):
        return jnp.sum(gates.decoder, axis=(1, 2)) + loss_of(decisions)

    def estimate(logits):
        keys = lambda number: jax.random.split(jax.random.key(number), 1)  # noqa: E731
        return jnp.sum(straight_through(Draws(logits, parts, loss_of, soft, keys)).objective)

    made = jax.grad(estimate)(logits)
    assert (made.decoder > 0).all() and not made.encoder.any() and made.tokens.any()


def test_the_entropy_of_a_decision_is_that_of_its_definition(toy):
    logits, _, parts, _ = toy
    p = jax.nn.sigmoid(jnp.concatenate([logits.encoder[0, 1:].ravel(), logits.decoder.ravel()]))
    q = jax.nn.softmax(logits.tokens[0])
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum() - (q * np.log(q)).sum()
    np.testing.assert_allclose(entropy(logits, parts), expected / 5, rtol=1e-5)


@pytest.mark.parametrize('config', (T5, LLAMA), ids=('encoder-decoder', 'decoder-only'))
def test_the_price_of_a_plan_is_its_cost_when_it_is_decoded(config):
    source, length = 9, 6
    params = random_params(config)
    tokens = np.random.default_rng(7).integers(2, 14, (1, source))
    for level in (0.2, 0.5, 0.9):
        plan = policy(config, level)
        trace = generate(config, params, tokens, None, Decoding(limits=Limits(max_new_tokens=length), plan=plan))
        assert trace.lengths[0] == length
        flops = plan.flops(config.sizes)
        counted = float(cost.exact(config, [source], trace.work, trace.prefill).total[0])
        whole = float(cost.at_full_depth(config, [source], [length])[0])
        prices = plan_cost.prices(config, jnp.array([source]), jnp.array([length]), SHARES, flops)
        share = plan_cost.expected(prices, chances_of(decisions_of(trace.plan, source)), config.decoder_only)
        np.testing.assert_allclose(float(share[0]), counted / whole, rtol=1e-5)


def decisions_of(plan: Plan, source: int) -> Decisions:
    kept = source if plan.source is None else int(plan.source.sum())
    [choice] = [at for at, (top, bottom) in enumerate(SHARES) if -(-source * top // bottom) == kept][:1]
    encoder = jnp.stack([plan.encoder_attention, plan.encoder_feed_forward], axis=-1)
    return Decisions(encoder, jnp.stack([plan.self_attention, plan.feed_forward], axis=-1), jnp.array([choice]))


def test_the_expected_cost_is_the_mean_over_every_plan(toy):
    logits, _, parts, _ = toy
    config = T5
    plans = every_plan()
    rows = len(plans.tokens)
    prices = plan_cost.prices(config, jnp.full(rows, 9), jnp.full(rows, 5), SHARES, 100)
    wide = jax.tree.map(lambda each: jnp.broadcast_to(each, (rows, *each.shape[1:])), logits)
    likelihood = jnp.exp(log_likelihood(wide, plans, parts))
    np.testing.assert_allclose(likelihood.sum(), 1, rtol=1e-5)
    mean = jnp.sum(likelihood * plan_cost.expected(prices, chances_of(plans), False))
    one = jax.tree.map(lambda each: each[:1], prices)
    np.testing.assert_allclose(plan_cost.expected(one, chances(logits, parts), False)[0], mean, rtol=1e-5)


def train(folder, deeper, tokenizer, batches, eval_batches=(), steps=6, rate=0.05, **options):
    stage = policy_stage(*deeper, tokenizer, **options)
    optimizer = Optimizer('adamw', learning_rate=rate, warmup_steps=0)
    loop = LoopOptions(steps, eval_every=3, save_every=3, log_every=1, best_metric='objective')
    return fit(stage, optimizer, batches, list(eval_batches), folder, loop, quiet=True)


def test_a_cost_that_weighs_much_makes_a_policy_of_a_frozen_model_run_less(tmp_path, deeper, tokenizer, batches, eval_batches):
    state = train(
        tmp_path, deeper, tokenizer, batches, eval_batches, 40, rule=FixedWeight(50.0), heads={'other': {'x': np.ones(2)}}
    )
    records = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    costs = [record['cost'] for record in records if 'cost' in record]
    assert costs[0] > 0.85 and costs[-1] < 0.6
    assert {'multiplier', 'excess', 'entropy', 'full_loss'} <= records[0].keys()
    for each in (record for record in records if 'cost' in record):
        assert abs(each['excess'] - each['above_bound'] - 0.05) < 1e-6
        both = np.hypot(each['loss_grad_norm'], each['cost_grad_norm'])
        assert both == pytest.approx(each['grad_norm'], rel=1e-3, abs=1e-9)
        assert each['loss_grad_noise'] == 0 or each['loss_grad_noise'] >= 1 - 1e-3
    evaluated = [record['eval'] for record in records if 'eval' in record][-1]
    assert evaluated['cost'] < 0.5 and evaluated['encoder_attention'][0] == 1  # the layer that is read after
    assert len(evaluated['decoder_feed_forward']) == 2 and abs(sum(evaluated['token_choices']) - 1) < 1e-5
    trained = calm_jax.load(tmp_path / 'best')
    jax.tree.map(np.testing.assert_array_equal, split(trained.params, trained.config), dict(deeper[1]))
    assert trained.heads.keys() == {'other', 'policy'} and set(state.params) == {'policy'}
    plan = PolicyPlan(**trained.heads['policy'])
    texts = ['abc', 'defgh']
    full, early = (trained.generate(texts, limits=Limits(max_new_tokens=4), plan=each) for each in (None, plan))
    assert all(one.flops < 0.7 * other.flops for one, other in zip(early, full))
    for text, one, other in zip(texts, early, full):
        assert other.plan is None and one.plan.encoder_attention[0] and one.plan.encoder_feed_forward[0]
        ran = sum(map(sum, (one.plan.self_attention, one.plan.cross_attention, one.plan.feed_forward)))
        assert one.sub_layers == [ran] * len(one.tokens)
        assert one.plan.choice in PolicyPlan.choices and (one.plan.choice == 'none' or one.plan.dropped)
        if one.plan.dropped:
            assert len(one.plan.source) == one.source_tokens == len(trained.encode(text)) + 1
            assert 0 not in one.plan.dropped and one.source_tokens - 1 not in one.plan.dropped


def test_noise_is_one_where_gradients_agree_and_counts_them_where_they_have_nothing_in_common():
    zeros, axes = {'x': jnp.zeros(300)}, jnp.eye(300)
    alike = apart = Noise(zeros, jnp.zeros(()))
    for count in range(1, 41):
        alike, apart = alike.after({'x': 3 * axes[0]}), apart.after({'x': axes[count]})
        np.testing.assert_allclose(alike.ratio(jnp.asarray(count)), 1, rtol=1e-4)
        weights = AVERAGED ** np.arange(count)
        np.testing.assert_allclose(apart.ratio(jnp.asarray(count)), weights.sum() ** 2 / (weights**2).sum(), rtol=1e-4)


def test_a_bound_that_is_passed_raises_its_multiplier_and_with_it_what_runs(tmp_path, deeper, tokenizer, batches):
    first = policy_stage(*deeper, tokenizer).params['policy']['bias'][: -len(TOKEN_CHOICES)].mean()
    bound = train(tmp_path, deeper, tokenizer, batches, rule=DualAscent(rate=20.0), tolerance=-0.5, steps=25)
    assert bound.optimizer.rule.multiplier > 1
    assert bound.params['policy']['bias'][: -len(TOKEN_CHOICES)].mean() > first


def test_a_joint_run_that_was_interrupted_ends_with_the_same_bits_and_its_policy_waits_for_the_model(
    tmp_path, deeper, tokenizer, batches
):
    options = {'backbone': Optimizer('adamw', learning_rate=1e-3, warmup_steps=0), 'dropout_steps': 2}
    first = policy_stage(*deeper, tokenizer).params['policy']
    whole = train(tmp_path / 'whole', deeper, tokenizer, batches, steps=4, **options)
    waiting = train(tmp_path / 'parts', deeper, tokenizer, batches, steps=2, **options)
    jax.tree.map(np.testing.assert_array_equal, waiting.params['policy'], first)
    resumed = train(tmp_path / 'parts', deeper, tokenizer, batches, steps=4, **options)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert (resumed.params['policy']['bias'][2:] != first['bias'][2:]).all()
    moved = jax.tree.map(
        lambda new, old: bool((np.asarray(new) != old).any()), whole.params['backbone']['model'], dict(deeper[1])
    )
    assert sum(jax.tree.leaves(moved)) > 0.8 * len(jax.tree.leaves(moved))


def test_a_policy_that_decides_layer_by_layer_is_trained_and_decoded_as_its_head_says(
    tmp_path, deeper, tokenizer, batches, eval_batches
):
    options = {'backbone': Optimizer('adamw', learning_rate=1e-3, warmup_steps=0), 'estimator': leave_one_out}
    options |= {'entropy_floor': 0.5, 'rule': FixedWeight(50.0), 'layerwise': True}
    state = train(tmp_path, deeper, tokenizer, batches, eval_batches, **options)
    first = policy_stage(*deeper, tokenizer, layerwise=True).params['policy']
    moved = {name: bool((np.asarray(state.params['policy'][name]) != first[name]).any()) for name in first}
    assert all(moved.values())
    costs = [json.loads(line).get('cost') for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert 0 < min(cost for cost in costs if cost is not None) < 1
    model = calm_jax.load(tmp_path / 'best')
    document = {'plan': {'class': 'policy', 'level': 0.4}, 'limits': {'max_new_tokens': 4}}
    decoding = from_json(document, heads=model.heads)
    assert decoding.plan.layerwise and from_json(to_json(decoding), heads=model.heads).plan.layerwise
    assert model.generate(['abc'], plan=decoding.plan, limits=decoding.limits)[0].plan is not None
    with pytest.raises(ValueError, match=r'policy decides layer by layer; expected layerwise=True, or a checkpoint without a'):
        policy_stage(*deeper, tokenizer, heads=model.heads)
    with pytest.raises(
        ValueError, match=r'has norms \[3, 16\], of another model; expected \[4, 16\], one after each layer but'
    ):
        plan = dataclasses.replace(policy(T5, layerwise=True), kernel=np.ones((16, 17)), scale=np.ones((3, 16)))
        plan.check(T5.sizes._replace(width=16))


def test_a_policy_that_is_fed_ones_is_stored_as_one_that_says_the_same_of_all(deeper):
    sizes = deeper[0].sizes
    policy = Policy(sizes.encoder_layers, sizes.layers)
    states, there = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, sizes.width))), jnp.ones((2, 5), bool)
    head = policy.init(jax.random.key(0), states, there)['params']
    head = {name: each + 0.3 * np.random.default_rng(4).normal(size=each.shape) for name, each in head.items()}
    stored, ones = fed_ones(policy, head), policy.apply({'params': head}, jnp.ones_like(states), there)
    assert not stored['kernel'].any()
    for one, other in zip(policy.apply({'params': stored}, states, there), ones):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for one, other in zip(policy.apply({'params': head}, states, there), ones):
        assert (np.abs(one - other) > 1e-3).any()


@pytest.mark.parametrize(
    'options, message',
    (
        ({'tolerance': np.nan}, 'tolerance is nan; expected a finite number'),
        ({'entropy_floor': -1.0}, 'entropy_floor is -1.0; expected 0 or more'),
        ({'rule': FixedWeight}, r'expected DynamicBarrier\(\), PrintedBarrier\(\), FixedWeight\(\), DualAscent\(\)'),
        ({'dropout_steps': 3}, 'dropout_steps is 3; expected 0 or more, and 0 where the model is frozen'),
        ({'layerwise': True, 'exact_cost': True}, 'exact_cost is True, and the cost of decisions that depend on draws has no'),
        (
            {'layerwise': True, 'estimator': straight_through},
            'straight_through is of decisions made at once; expected self_cri',
        ),
        ({'layerwise': True, 'constant': True}, 'constant and random policies read nothing, and layerwise is of what is read'),
        ({'parts': ['head']}, "parts holds 'head'; expected some of encoder, decoder, tokens"),
    ),
)
def test_what_no_policy_can_be_trained_with_is_refused(deeper, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        policy_stage(*deeper, tokenizer, **options)


@pytest.mark.parametrize('config', (T5, LLAMA), ids=('encoder-decoder', 'decoder-only'))
def test_the_loss_of_a_plan_is_that_of_the_tokens_that_are_decoded_within_it(config):
    params = random_params(config)
    rng = np.random.default_rng(2)
    source, target = rng.integers(2, 14, (3, 5)), rng.integers(2, 14, (3, 4))
    sizes = config.sizes
    runs = [rng.random((3, sizes.layers)) < 0.6 for _ in range(2)]
    stack = [rng.random((3, sizes.encoder_layers)) < 0.6 for _ in range(2)]
    for each in stack if sizes.encoder_layers else runs:
        each[:, 0] = True  # the layer that a policy reads after
    plan = Plan(runs[0], runs[0], runs[1], *stack)
    decoding = Decoding(limits=Limits(max_new_tokens=4), plan=GivenPlan(plan))
    trace = generate(config, params, source, np.ones_like(source, bool), decoding, forced=target, log_probabilities=True)

    if config.decoder_only:
        tokens = np.concatenate([source, target], axis=1)
        weights = np.concatenate([np.zeros((3, 4)), np.ones((3, 4))], axis=1)
        batch = {'decoder_input_tokens': tokens[:, :-1], 'decoder_target_tokens': tokens[:, 1:]}
    else:
        begun, weights = np.full((3, 1), config.decoder_start_id), np.ones((3, 4))
        batch = {'decoder_input_tokens': np.concatenate([begun, target[:, :-1]], axis=1), 'decoder_target_tokens': target}
        batch |= {'encoder_input_tokens': source, 'encoder_mask': np.ones_like(source, bool)}
    batch = jax.tree.map(jnp.asarray, {**batch, 'decoder_loss_weights': weights.astype(np.float32)})
    call = caller(config, params)

    @jax.jit
    def losses(plan, weights):
        seen = read(call, config, batch)
        return (
            seen.source_tokens,
            seen.new_tokens,
            *(nats(call, config, batch, seen, *how) for how in ((plan,), (weights, weighted))),
        )

    sources, targets, made, soft = losses(plan, jax.tree.map(lambda each: each.astype(np.float32), plan))
    assert sources.tolist() == [5] * 3 and targets.tolist() == [4] * 3
    np.testing.assert_allclose(made, -np.mean(trace.log_probabilities[:, :4], axis=1), rtol=1e-4)
    np.testing.assert_allclose(made, soft, rtol=1e-4)
