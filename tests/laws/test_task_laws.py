"""Texts that are read for a task: rows are what they are alone, plans run what they say, and work is what was multiplied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.windows import decode_windows
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import decide, decide_program, read, read_program
from calm_jax.metrics import cost, plan_cost
from calm_jax.models.task_head import init_task_head
from calm_jax.readouts import read_window
from calm_jax.tasks import Labels, Spans
from calm_jax.training.goals import TaskGoal
from calm_jax.training.plan_loss import caller, nats
from calm_jax.training.plan_loss import read as read_batch
from calm_jax.training.policy import SHARES, chances_of
from tests.laws.test_work_laws import LLAMA, T5, policy
from tests.metrics.products import products
from tests.parameters import random_params
from tests.training.test_policy import decisions_of

TASKS = {'labels': Labels(('a', 'b', 'c')), 'spans': Spans()}
CASES = [(T5, 'labels'), (T5, 'spans'), (LLAMA, 'labels'), (LLAMA, 'spans')]
NAMES = [f'{"decoder-only" if config.decoder_only else "encoder-decoder"} {task}' for config, task in CASES]
SOURCE = 5


def head_of(config, task):
    dense = isinstance(task, Labels) and not config.decoder_only
    return init_task_head(config, jax.random.key(2), task.outputs, dense)


def texts(config, count=9):
    rng = np.random.default_rng(3)
    return [[*rng.integers(2, 14, rng.integers(1, 17)), config.eos_id] for _ in range(count)]


@pytest.mark.parametrize(
    'config, name, drawn, layerwise',
    [(*case, drawn, False) for case, drawn in zip(CASES, (False, True, True, False))]
    + [(*case, True, True) for case in CASES[1:3]],
)
def test_a_text_is_read_alike_alone_and_beside_others_of_other_plans(config, name, drawn, layerwise):
    task = TASKS[name]
    with jax.enable_x64(True):
        config = dataclasses.replace(config, dtype='float64')
        params = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), random_params(config))
        head = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), head_of(config, task))
        decoding = Decoding(plan=dataclasses.replace(policy(config, 0.4, layerwise=layerwise), drawn=drawn), seed=5)
        layout = {'max_source_length': 24, 'pad_id': config.pad_id, 'eos_id': None, 'left': config.decoder_only}
        sources = texts(config)

        def readings(batch_size):
            for window in decode_windows(sources, batch_size, **layout):
                options = {'example_ids': lambda rows: np.maximum(rows, 0), 'wanted': range(len(sources))}
                for reading in read_window(config, params, head, window, decoding, task, **options):
                    for place, row in enumerate(reading.rows.tolist()):
                        scores = reading.readout.scores[place]
                        work = jax.tree.map(lambda each, place=place: int(each[place].sum()), reading.readout.work)
                        length = len(reading.tokens[place])
                        prefill = jax.tree.map(lambda each, place=place: int(each[place]), reading.readout.prefill)
                        yield row, (scores[:length] if name == 'spans' else scores, work, prefill)

        alone, together = dict(readings(1)), dict(readings(4))
        assert alone.keys() == together.keys() == set(range(len(sources)))
        for row, (scores, work, prefill) in alone.items():
            np.testing.assert_allclose(together[row][0], scores, atol=1e-10)
            assert together[row][1:] == (work, prefill)
        ran = [(work.self_attention, work.feed_forward, len(sources[row])) for row, (_, work, _) in alone.items()]
        assert len({(attention / length, feed / length) for attention, feed, length in ran}) > 1
        if not config.decoder_only:
            assert any(prefill.dropped_tokens for *_, prefill in alone.values())


@pytest.mark.parametrize('config, name', CASES, ids=NAMES)
def test_the_loss_that_a_policy_is_trained_by_is_that_of_what_is_read_within_its_plan_and_so_is_its_price(config, name):
    task, length = TASKS[name], 11
    params, head = random_params(config), head_of(config, task)
    tokens = np.random.default_rng(7).integers(2, 14, (1, length))
    tokens[:, -1] = config.eos_id
    targets = np.array([[1]] if name == 'labels' else [[3, 6]])
    given = tokens if config.decoder_only else np.concatenate([[[config.decoder_start_id]], tokens[:, :-1]], axis=1)
    there = np.ones((1, length), bool)
    batch = {
        'encoder_input_tokens': tokens,
        'encoder_mask': there,
        'decoder_input_tokens': given,
        'decoder_mask': there,
        'task_targets': targets,
        'task_weights': np.ones(1),
    }
    batch = jax.tree.map(jnp.asarray, batch)
    for level in (0.3, 0.6, 0.97):
        plan = policy(config, level)
        decided = decide(config, params, tokens, there, Decoding(plan=plan))
        made = read(config, params, head, decided, Decoding(plan=plan), task=task)
        goal, call = TaskGoal(task, config), caller(config, params)
        seen = read_batch(call, config, batch, goal)
        loss = nats(call, config, batch, seen, decided.plan, goal=goal, head=head)
        scores = made.scores[0, None] if name == 'labels' else made.scores[0].T
        chances = jax.nn.log_softmax(jnp.asarray(scores), axis=-1)
        expected = -np.mean([chances[side, target] for side, target in enumerate(targets[0])])
        np.testing.assert_allclose(float(loss[0]), expected, rtol=1e-5)
        # What the head itself takes is in the count and in no price.
        work = made.work._replace(decisions=0 * made.work.decisions)
        lengths = [1 if config.decoder_only else length]
        counted = float(cost.exact(config, lengths, work, made.prefill).total[0])
        full = read(config, params, head, decide(config, params, tokens, there), task=task)
        whole = float(cost.at_full_depth(config, [length], [1], reads=True)[0])
        scoring = config.emb_dim * int(full.work.decisions.sum())
        assert whole == float(cost.exact(config, lengths, full.work, full.prefill).total[0]) - scoring
        count = jnp.array([length])
        prices = plan_cost.prices(config, count, count, SHARES, plan.flops(config.sizes), reads=True)
        share = plan_cost.expected(prices, chances_of(decisions_of(decided.plan, length)), config.decoder_only)
        np.testing.assert_allclose(float(share[0]), counted / whole, rtol=1e-5)


@pytest.mark.parametrize('config, name', CASES, ids=NAMES)
def test_the_cost_of_reading_is_the_products_that_its_program_multiplies(config, name):
    task = TASKS[name]
    params, head = random_params(config), head_of(config, task)
    tokens = np.random.default_rng(7).integers(2, 14, (1, SOURCE))
    parts = ['decoder'] if config.decoder_only else ['encoder', 'decoder']
    for decoding in (Decoding(), Decoding(plan=policy(config, 0.5, parts=parts))):
        decided = decide(config, params, tokens, np.ones((1, SOURCE), bool), decoding)

        def run(params, head, decided, decoding=decoding):
            return read_program.__wrapped__(config, params, head, decided, decoding.resolved(), task=task, kept=None)

        multiplied, made = products(run, params, head, decided)
        counted = float(cost.exact(config, [1 if config.decoder_only else SOURCE], made.work, made.prefill).total[0])
        # All pairs of positions are multiplied, and each with itself and those before it are counted; the plan and the layer
        # that it was made of were multiplied before.
        attending = int(made.work.self_attention[0, 0]) - (decoding.plan is not None and config.decoder_only)
        width = config.num_heads * config.head_dim
        multiplied += attending * (2 * SOURCE * (SOURCE + 1) - 4 * SOURCE * SOURCE) * width
        counted -= before(config, decoding)
        assert counted == multiplied


@pytest.mark.parametrize('config, name', CASES[1:3], ids=NAMES[1:3])
def test_the_cost_of_reading_and_deciding_layer_by_layer_is_the_products_of_both(config, name):
    task, parts = TASKS[name], ['decoder'] if config.decoder_only else ['encoder', 'decoder']
    params, head = random_params(config), head_of(config, task)
    decoding = Decoding(plan=policy(config, 0.5, parts=parts, layerwise=True))
    tokens = jnp.asarray(np.random.default_rng(7).integers(2, 14, (1, SOURCE)), jnp.int32)

    def run(params, head):
        given = tokens, jnp.ones((1, SOURCE), bool), jnp.zeros(1, jnp.int32), decoding.resolved()
        decided = decide_program.__wrapped__(config, params, *given)
        return read_program.__wrapped__(config, params, head, decided, decoding.resolved(), task=task, kept=None)

    multiplied, made = products(run, params, head)
    counted = cost.exact(config, [1 if config.decoder_only else SOURCE], made.work, made.prefill).total[0]
    decisions = config.emb_dim * int(made.prefill.decisions[0])
    assert 0 <= decisions - decoding.plan.flops(config.sizes) < config.emb_dim
    # All pairs of positions are multiplied, and each with itself and those before it are counted.
    pairs = int(made.work.self_attention[0, 0]) * (2 * SOURCE * (SOURCE + 1) - 4 * SOURCE * SOURCE)
    assert counted - decisions + decoding.plan.flops(config.sizes) == multiplied + pairs * config.num_heads * config.head_dim


def before(config, decoding):
    """Operations of the plan, and of the layer that it is made of."""
    if decoding.plan is None:
        return 0
    of, width = cost.of_token(config), config.num_heads * config.head_dim
    if config.decoder_only:
        layer = SOURCE * (of.queries_outputs + of.keys_values + of.feed_forward) + 2 * SOURCE * (SOURCE + 1) * width
    else:
        layer = cost.encoder_attention(config, SOURCE) + SOURCE * of.feed_forward
    return float(layer) + config.emb_dim * config.sizes.units(decoding.plan.flops(config.sizes))
