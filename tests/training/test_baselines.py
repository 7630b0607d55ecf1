"""What a policy has to beat: plans drawn alike for all inputs, and the best static one."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calm_jax
from calm_jax.checkpoints import native
from calm_jax.cli import main
from calm_jax.data.batching import TrainingBatches, evaluation_batches
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.depth.policy import (
    TOKEN_CHOICES,
    Decisions,
    PolicyPlan,
    drawn,
    likeliest,
    parts_of,
    plan_of,
    policy_flops,
    saying,
    tilted,
    unread,
)
from calm_jax.depth.search import search
from calm_jax.metrics import cost, plan_cost
from calm_jax.training import jobs
from calm_jax.training.baselines import StaticPlan, cost_of, drawn_alike, droppable, loss_of, mean_prices
from calm_jax.training.jobs import PairedText, train_policy
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.plan_loss import caller, nats, of_texts, read
from calm_jax.training.policy import SHARES, chances, chances_of
from calm_jax.training.train_loop import LoopOptions
from tests.laws.test_work_laws import LLAMA, T5
from tests.parameters import random_params
from tests.training.conftest import LENGTHS

SOURCES, TARGETS = np.array([3, 9, 9, 14, 30]), np.array([2, 5, 7, 7, 11])


@pytest.mark.parametrize(
    'parts, share', ((None, 0.6), (None, 1.0), (('encoder',), 0.85), (('decoder',), 0.5), (('tokens',), 0.85))
)
def test_draws_alike_cost_their_share_on_average(parts, share):
    decided = parts_of(parts, T5.sizes)
    scores = drawn_alike(mean_prices(T5, SOURCES, TARGETS), decided, False, share)
    expected = jax.jit(
        lambda: plan_cost.expected(
            plan_cost.prices(T5, SOURCES, TARGETS, SHARES, policy_flops(T5.sizes)), chances(scores, decided), False
        )
    )()
    assert abs(float(expected.mean()) - share) < 1e-4 and expected.std() > 1e-4
    # One probability of all sub-layers, and the same odds for each tenth of the tokens.
    runs = np.concatenate([np.ravel(scores.encoder), np.ravel(scores.decoder)])
    assert (runs == runs[0]).all()
    np.testing.assert_allclose(scores.tokens[0], [10 * choice.share * runs[0] for choice in TOKEN_CHOICES], rtol=1e-6)


@pytest.mark.parametrize('config, share', ((T5, 0.75), (LLAMA, 0.9)), ids=('encoder-decoder', 'decoder-only'))
def test_what_draws_run_is_what_they_were_to_cost(config, share):
    rows, source, length = 192, 9, 4
    rng, params = np.random.default_rng(7), random_params(config)
    scores = drawn_alike(mean_prices(config, [source], [length]), parts_of(None, config.sizes), config.decoder_only, share)
    plan = PolicyPlan(**unread(scores, config.emb_dim), drawn=True)
    decoding = Decoding(limits=Limits(max_new_tokens=length), plan=plan)
    tokens, target = rng.integers(2, 14, (rows, source)), rng.integers(2, 14, (rows, length))
    trace = generate(config, params, tokens, None, decoding, forced=target)
    whole = float(cost.at_full_depth(config, [source], [length])[0])
    shares = cost.exact(config, [source] * rows, trace.work, trace.prefill).total / whole
    error = shares.std() / np.sqrt(rows)
    assert abs(shares.mean() - share) < 4 * error and error < 0.02
    assert len(np.unique(np.asarray(trace.plan.self_attention), axis=0)) > 2


def test_a_static_plan_is_what_its_head_says_drawn_or_not_and_all_runs_at_a_dial_of_one():
    rng = np.random.default_rng(0)
    rows = 4 * len(TOKEN_CHOICES)
    plan = Decisions(
        jnp.asarray(rng.random((rows, 3, 2)) < 0.5), jnp.asarray(rng.random((rows, 4, 2)) < 0.5), jnp.arange(rows) % 7
    )
    scores, keys = saying(plan), jax.random.split(jax.random.key(1), rows)
    under = jax.jit(lambda level: (likeliest(tilted(scores, level)), drawn(tilted(scores, level), keys)))
    for level in (0.0, 1e-6, 0.5, 0.9, 1 - 1e-7):
        for made in under(level):
            jax.tree.map(np.testing.assert_array_equal, made, plan)
    full, _ = under(1.0)
    assert full.encoder.all() and full.decoder.all() and not full.tokens.any()


@pytest.fixture(scope='module')
def tuning(deeper, examples):
    """(one batch, {plan: loss} of every plan of two encoder and two decoder layers, {plan: cost})."""
    [batch] = evaluation_batches(examples[:4], 4, **LENGTHS)
    sides = itertools.product((True, False), repeat=2)
    layers = tuple(sides)
    plans = [
        StaticPlan(((True, True), one), (two, three), choice)
        for one, two, three, choice in itertools.product(layers, layers, layers, range(len(TOKEN_CHOICES)))
    ]
    config, params = deeper
    arrays = jax.tree.map(jnp.asarray, batch)

    @jax.jit
    def losses(decisions):
        call = caller(config, params)
        seen = read(call, config, arrays)

        def of_plan(decisions):
            rows = jax.tree.map(lambda each: jnp.broadcast_to(each, (4, *each.shape)), decisions)
            return jnp.mean(nats(call, config, arrays, seen, plan_of(rows, seen.context)))

        return jax.vmap(of_plan)(decisions)

    encoder, decoder, tokens = zip(*plans)
    decisions = Decisions(jnp.asarray(encoder), jnp.asarray(decoder), jnp.asarray(tokens))
    lengths = batch['encoder_mask'].sum(axis=1), (batch['decoder_loss_weights'] > 0).sum(axis=1)
    each = jax.jit(lambda: plan_cost.prices(config, *lengths, SHARES, policy_flops(config.sizes)))()
    shares = jax.jit(jax.vmap(lambda one: jnp.mean(plan_cost.expected(each, one, False))))
    costs = shares(chances_of(jax.tree.map(lambda each: each[:, None], decisions)))
    of_plans = cost_of(mean_prices(config, *lengths), False)
    some = slice(None, None, 50)
    np.testing.assert_allclose([of_plans(plan) for plan in plans[some]], costs[some], rtol=1e-5)
    return batch, dict(zip(plans, map(float, losses(decisions)))), dict(zip(plans, map(float, costs)))


def less(plan, other):
    """Whether a plan is another without one thing: a sub-layer, or some of the tokens."""
    flat, whole = (np.array([*each.encoder, *each.decoder]).ravel() for each in (plan, other))
    sub_layers = (whole & ~flat).sum() == (whole != flat).sum() == 1 and plan.tokens == other.tokens
    return sub_layers or ((whole == flat).all() and plan.tokens > other.tokens)


@pytest.mark.parametrize('target', (0.9, 0.75, 0.6))
def test_each_step_of_a_search_is_the_best_of_all_plans_with_one_thing_less(deeper, tuning, target):
    config, params = deeper
    batch, losses, costs = tuning
    droppable_parts = functools.partial(droppable, parts_of(None, config.sizes))
    measured = loss_of(config, params, [batch])
    route = search(StaticPlan.full(config.sizes), droppable_parts, costs.__getitem__, measured, target)
    assert route.steps[-1].cost <= target < route.steps[-2].cost and len(route.steps) > 1
    for step in route.steps:
        np.testing.assert_allclose(step.loss, losses[step.plan], rtol=1e-5)
    for before, step in itertools.pairwise(route.steps):
        others = [plan for plan in losses if less(plan, before.plan) and costs[plan] < before.cost]
        rises = {plan: (losses[plan] - before.loss) / (before.cost - max(costs[plan], target)) for plan in others}
        np.testing.assert_allclose(rises[step.plan], min(rises.values()), rtol=1e-3, atol=1e-5)
    # A beam of all is the best of those to which nothing can be given back.
    best = min(
        losses[plan]
        for plan in losses
        if costs[plan] <= target and any(less(plan, other) and costs[other] > target for other in losses)
    )
    wide = search(route.steps[0].plan, droppable_parts, costs.__getitem__, losses.__getitem__, target, beam=1000)
    assert wide.steps[-1].loss == best <= losses[route.steps[-1].plan]


def test_what_is_not_decided_is_never_dropped(deeper):
    sizes = deeper[0].sizes
    full = StaticPlan.full(sizes)
    assert {*droppable(parts_of(('decoder',), sizes), full)} == {
        f'decoder.layers_{layer}.{name}' for layer in (0, 1) for name in ('attention', 'feed_forward')
    }
    assert {*droppable(parts_of(('encoder',), sizes), full)} == {'encoder.layers_1.attention', 'encoder.layers_1.feed_forward'}
    assert all('.layers_0.' not in name for name in droppable(parts_of(None, LLAMA.sizes), StaticPlan.full(LLAMA.sizes)))
    tokens = droppable(parts_of(('tokens',), sizes), full._replace(tokens=4))
    assert tokens == {'tokens.evenly 33%': full._replace(tokens=5), 'tokens.evenly 50%': full._replace(tokens=6)}


@pytest.mark.parametrize('decoder_only', (False, True))
def test_tokens_are_counted_as_batches_hold_them(examples, decoder_only):
    longer = [
        *examples[:5],
        examples[5]._replace(source=np.arange(12, dtype=np.int32)),
        examples[6]._replace(target=np.arange(9)),
    ]
    longer += [examples[7]._replace(source=np.zeros(0, np.int32))]
    ends = {'source_end': () if decoder_only else (1,), 'decoder_only': decoder_only}
    batches = TrainingBatches(longer, 3, **LENGTHS, **ends)
    counted = np.sort(np.array(batches.token_counts()).T, axis=0)
    held = []
    for batch in batches.once():
        targets = (batch['decoder_loss_weights'] > 0).sum(axis=1)
        before = np.cumsum(batch['decoder_loss_weights'], axis=1) - batch['decoder_loss_weights'] == 0
        sources = (before.sum(axis=1) if decoder_only else batch['encoder_mask'].sum(axis=1))[targets > 0]
        held += zip(sources.tolist(), targets[targets > 0].tolist())
    np.testing.assert_array_equal(counted, np.sort(np.array(held), axis=0))
    assert len(held) == len(longer)


def test_the_draws_of_evaluations_are_a_text_s_own(examples):
    [batch] = evaluation_batches(examples[:4], 4, **LENGTHS)
    swapped = {name: np.concatenate([array[::-1], array[:1]]) for name, array in batch.items()}
    keys, others = (np.asarray(jax.random.key_data(of_texts(3, each))) for each in (batch, swapped))
    np.testing.assert_array_equal(keys[::-1], others[:4])
    assert len(np.unique(keys, axis=0)) == 4
    assert (np.asarray(jax.random.key_data(of_texts(4, batch))) != keys).any()


@pytest.fixture(scope='module')
def stored(tmp_path_factory, deeper, tokenizer):
    """The folder of a model with two encoder layers."""
    folder = tmp_path_factory.mktemp('deeper') / 'model'
    native.save(folder, *deeper, tokenizer, {'other': {'x': np.ones(2, np.float32)}}, None)
    return folder


def test_a_model_learns_under_random_plans_that_never_change(tmp_path, stored, jsonl):
    data = PairedText(str(jsonl), 'en', 'fr', str(jsonl), batch_size=4, max_source_length=8, max_target_length=8)

    def train(folder, steps, backbone=Optimizer('adamw', learning_rate=1e-2, warmup_steps=0)):
        options = LoopOptions(steps, log_every=1, eval_every=2, best_metric='objective')
        given = {'random': 0.8, 'backbone': backbone, 'quiet': True}
        return train_policy(tmp_path / folder, data, Optimizer('adamw', learning_rate=0.1), options, stored, **given)

    train('whole', 4)
    begun = calm_jax.load(stored)
    trained = calm_jax.load(tmp_path / 'whole' / 'best')
    moved = jax.tree.map(lambda new, old: bool((np.asarray(new) != old).any()), trained.params, begun.params)
    assert sum(jax.tree.leaves(moved)) > 0.8 * len(jax.tree.leaves(moved))
    assert {*trained.heads} == {'other', 'policy'}
    records = [json.loads(line) for line in (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()]
    assert all(abs(record['cost'] - 0.8) < 0.05 for record in records if 'cost' in record)
    # Evaluations are of draws: of the likeliest plan, which is the full one, all would run.
    evaluated = records[-1]['eval']
    assert abs(evaluated['cost'] - 0.8) < 0.1 and 0 < evaluated['decoder_attention'][0] < 1

    plan = PolicyPlan(**trained.heads['policy'], drawn=True)
    decodings = [Decoding(limits=Limits(max_new_tokens=3), plan=plan, seed=seed) for seed in (0, 0, 1)]
    some, again, other = ([each.flops for each in trained.generate(6 * ['abc'], decoding)] for decoding in decodings)
    assert some == again != other and len(set(some)) > 1  # each text's own draws, of the seed

    alone = train('frozen', 50, None)
    assert int(alone.step) == 1
    frozen = calm_jax.load(tmp_path / 'frozen' / 'best')
    jax.tree.map(np.testing.assert_array_equal, frozen.params, begun.params)
    jax.tree.map(np.testing.assert_array_equal, frozen.heads['policy'], trained.heads['policy'])


@pytest.fixture
def flags(stored, jsonl):
    return [
        'train',
        f'--checkpoint={stored}',
        f'--train_data={jsonl}',
        '--source=en',
        '--target=fr',
        '--max_source_length=8',
        '--max_target_length=8',
        '--batch_size=4',
        '--quiet',
    ]


def test_a_search_is_a_command_that_goes_on_where_it_was_stopped(tmp_path, flags, jsonl, monkeypatch, capsys):
    flags = [*flags, '--gin_file=runs/policy_searched.gin', '--gin.SHARE=.75']
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    assert main([*flags, f'--output={whole}', f'--eval_data={jsonl}']) == 0
    *steps, evaluated = [json.loads(line) for line in (whole / 'metrics.jsonl').read_text().splitlines()]
    assert [record['step'] for record in steps] == [*range(1, len(steps) + 1)]
    assert all(before['cost'] > 0.75 for before in steps[:-1]) and steps[-1]['cost'] <= 0.75
    assert abs(evaluated['eval']['loss'] - steps[-1]['loss']) < 1e-4  # the same data
    assert abs(evaluated['eval']['cost'] - steps[-1]['cost']) < 1e-4
    assert abs(evaluated['eval']['full_loss'] - steps[-1]['full_loss']) < 1e-4

    found = calm_jax.load(whole / 'last')
    assert {*found.heads} == {'other', 'policy'}
    limits = Limits(max_new_tokens=4)
    outputs = {
        (level, drawn): found.generate(
            ['abc', 'defgh'], limits=limits, plan=PolicyPlan(**found.heads['policy'], level=level, drawn=drawn)
        )
        for level, drawn in ((0.5, False), (0.5, True), (0.99, False), (1.0, False))
    }
    flops = {key: [each.flops for each in made] for key, made in outputs.items()}
    assert flops[0.5, False] == flops[0.5, True] == flops[0.99, False]
    assert all(one < 0.9 * other for one, other in zip(flops[0.5, False], flops[1.0, False]))
    assert [each.text for each in outputs[1.0, False]] == [
        each.text for each in found.generate(['abc', 'defgh'], limits=limits)
    ]

    # Stopped while a line is written, and told to go on.
    real, measured = jobs.baselines.loss_of, []

    def counted(*arguments):
        loss = real(*arguments)

        def stopping(plan):
            if len(measured) == 7:
                raise KeyboardInterrupt
            measured.append(plan)
            return loss(plan)

        return stopping

    monkeypatch.setattr(jobs.baselines, 'loss_of', counted)
    assert main([*flags, f'--output={parts}']) == 130
    assert 'what was measured is saved: the same command with --resume goes on after it' in capsys.readouterr().err
    evaluations = parts / 'state' / 'evaluations.jsonl'
    assert len(evaluations.read_text().splitlines()) == 7
    with open(evaluations, 'a') as file:
        file.write('{"plan": [[[tr')
    measured[:] = [None] * 8
    assert main([*flags, f'--output={parts}', '--resume']) == 0
    assert evaluations.read_bytes() == (whole / 'state' / 'evaluations.jsonl').read_bytes()
    assert len(measured) == 8 + len(evaluations.read_text().splitlines()) - 7
    assert (parts / 'metrics.jsonl').read_text().splitlines() == (whole / 'metrics.jsonl').read_text().splitlines()[:-1]
    jax.tree.map(np.testing.assert_array_equal, calm_jax.load(parts / 'last').heads, found.heads)


def test_a_plan_is_searched_that_runs_so_many_layers(tmp_path, flags):
    bindings = ['--gin_file=runs/policy_searched.gin', '--gin.LAYERS=1.5']
    assert main([*flags, *bindings, f'--output={tmp_path / "made"}']) == 0
    steps = [json.loads(line) for line in (tmp_path / 'made' / 'metrics.jsonl').read_text().splitlines()]
    assert all(step['cost'] > 1.5 for step in steps[:-1]) and steps[-1]['cost'] <= 1.5
    found = calm_jax.load(tmp_path / 'made' / 'last')
    (made,) = found.generate(['abc'], limits=Limits(max_new_tokens=4), plan=PolicyPlan(**found.heads['policy']))
    assert made.layers == pytest.approx(steps[-1]['cost'])


SEARCHED, RANDOM = ['--gin_file=runs/policy_searched.gin'], ['--gin_file=runs/policy_joint.gin', '--steps=2']


@pytest.mark.parametrize(
    'arguments, message',
    (
        (SEARCHED, 'share is None, layers None; expected one of the two'),
        ([*SEARCHED, '--gin.SHARE=.8', '--gin.LAYERS=1'], 'share is 0.8, layers 1; expected one of the two'),
        ([*SEARCHED, '--gin.LAYERS=-1'], 'a cost of -1 cannot be reached: with all dropped that can be it is 0'),
        ([*SEARCHED, '--gin.SHARE=1.5'], "share is 1.5; expected a share of the full model's operations, in (0, 1]"),
        ([*SEARCHED, '--gin.SHARE=.01'], 'a cost of 0.01 cannot be reached: with all dropped that can be it is 0.'),
        ([*SEARCHED, '--gin.SHARE=.8', '--gin.BEAM=0'], 'beam is 0; expected 1 or more'),
        ([*SEARCHED, '--gin.SHARE=.8', '--gin.MAX_EVALUATIONS=9'], 'max_evaluations is 9; expected 14 or more'),
        (
            [*SEARCHED, '--gin.SHARE=.8', "--gin.PARTS=['head']"],
            "parts holds 'head'; expected some of encoder, decoder, tokens",
        ),
        ([*SEARCHED, '--gin.SHARE=.8', '--steps=5'], '--gin.TRAIN_STEPS: no such macro in runs/policy_searched.gin'),
        ([*RANDOM, '--gin.RANDOM=0.0'], "random is 0.0; expected a share of the full model's operations, in (0, 1]"),
        ([*RANDOM, '--gin.RANDOM=.01'], 'a share of 0.01 cannot be reached: with all dropped that can be it is 0.'),
        ([*RANDOM, '--gin.RANDOM=.8', '--gin.CONSTANT=True'], 'constant and random are two policies; choose one'),
    ),
)
def test_what_no_baseline_can_be_is_refused_in_one_line(tmp_path, flags, capsys, arguments, message):
    assert main([*flags, f'--output={tmp_path}/made', *arguments]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count('\n') == 1
    assert not (tmp_path / 'made').exists()


def test_parts_that_a_model_decides_nothing_of_are_refused():
    for config, why in ((LLAMA, 'it has no encoder'), (dataclasses.replace(T5, num_encoder_layers=1), 'the only layer')):
        with pytest.raises(ValueError, match=f'parts holds encoder, and this model decides of none of its layers: {why}'):
            parts_of(('encoder',), config.sizes)
