"""Skip controllers: what is trained is what decodes, and the gradients are those of the relaxation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.depth.controllers import SkipControllers, encoded, scores
from calm_jax.training.controllers import begun, controllers_stage, cross_entropy, divergence, gated, logistic, straight_through
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.plan_loss import caller
from calm_jax.training.train_loop import LoopOptions, fit
from tests.laws.test_work_laws import LLAMA, T5
from tests.parameters import random_params

DEEP_LLAMA, DEEP_T5 = (dataclasses.replace(config, num_decoder_layers=5) for config in (LLAMA, T5))


def controllers(config, reads='hidden', hidden_width=0, sub_layers=False, **options):
    """Controllers that decide one way and the other."""
    head, rng = begun(config, reads, hidden_width, sub_layers, seed=1), np.random.default_rng(5)
    head['kernel'] = jnp.asarray(2 * rng.normal(size=head['kernel'].shape), jnp.float32)
    head['bias'] = jnp.asarray(rng.normal(size=head['bias'].shape), jnp.float32)
    return SkipControllers(**head, **options)


def head_of(gate):
    return {name: getattr(gate, name) for name in ('inputs', 'kernel', 'bias', 'hidden_kernel', 'hidden_bias')}


def batch_of(config, source, target):
    """Sources int [B, S] and targets int [B, T] of one length, as training has them."""
    rows, length = target.shape
    if config.decoder_only:
        tokens = np.concatenate([source, target], axis=1)
        weights = np.concatenate([np.zeros((rows, source.shape[1] - 1)), np.ones((rows, length))], axis=1)
        batch = {'decoder_input_tokens': tokens[:, :-1], 'decoder_target_tokens': tokens[:, 1:]}
    else:
        started, weights = np.full((rows, 1), config.decoder_start_id), np.ones((rows, length))
        batch = {'decoder_input_tokens': np.concatenate([started, target[:, :-1]], axis=1), 'decoder_target_tokens': target}
        batch |= {'encoder_input_tokens': source, 'encoder_mask': np.ones_like(source, bool)}
    return jax.tree.map(jnp.asarray, {**batch, 'decoder_loss_weights': weights.astype(np.float32)})


@pytest.mark.parametrize(
    ('config', 'reads', 'hidden_width', 'sub_layers'),
    [(DEEP_LLAMA, 'hidden', 0, False), (DEEP_T5, 'hidden', 3, True), (DEEP_LLAMA, 'position', 0, True)],
    ids=('decoder-only', 'encoder-decoder', 'position and embedding'),
)
def test_what_controllers_are_trained_by_is_what_they_decode(config, reads, hidden_width, sub_layers):
    rng, params = np.random.default_rng(2), random_params(config)
    source, target = rng.integers(2, 14, (3, 5)), rng.integers(2, 14, (3, 4))
    gate = controllers(config, reads, hidden_width, sub_layers)
    if reads == 'position':  # and the embedding
        gate = dataclasses.replace(gate, inputs=jnp.array([0, 0.5, 0.5, 0]))
    decoding = Decoding(limits=Limits(max_new_tokens=4), gate=gate)
    trace = generate(config, params, source, np.ones_like(source, bool), decoding, forced=target, log_probabilities=True)
    batch = batch_of(config, source, target)

    @jax.jit
    def trained(params, batch):
        call = caller(config, params)
        made = gated(call, config, head_of(gate), batch, None)
        return jax.nn.log_softmax(call(made.states, method='unembed')), made.runs

    said, runs = trained(params, batch)
    said = jnp.take_along_axis(said, batch['decoder_target_tokens'][..., None], axis=-1)[..., 0]
    there = batch['decoder_loss_weights'] > 0
    np.testing.assert_allclose(said[there].reshape(3, 4), trace.log_probabilities[:, :4], rtol=2e-4, atol=2e-5)
    counts = jnp.sum(runs, axis=2)[there].reshape(3, 4, -1)
    assert np.unique(counts).size > 1 and counts.max() <= config.num_decoder_layers
    np.testing.assert_array_equal(counts[..., 0], trace.work.self_attention[:, :4])
    np.testing.assert_array_equal(counts[..., -1], trace.work.feed_forward[:, :4])


def test_a_dial_at_one_runs_all_and_one_at_zero_the_first_and_last_layer_alone():
    params, tokens = random_params(DEEP_LLAMA), np.random.default_rng(3).integers(2, 14, (2, 5))

    def decoded(gate):
        return generate(DEEP_LLAMA, params, tokens, None, Decoding(limits=Limits(max_new_tokens=4), gate=gate))

    full, whole, least = decoded(None), decoded(controllers(DEEP_LLAMA, level=1.0)), decoded(controllers(DEEP_LLAMA, level=0.0))
    np.testing.assert_array_equal(full.tokens, whole.tokens)
    np.testing.assert_array_equal(full.work.feed_forward, whole.work.feed_forward)
    said = np.arange(4) < np.asarray(least.lengths)[:, None]
    np.testing.assert_array_equal(least.work.feed_forward, 2 * said)


def test_drawn_decisions_are_as_likely_as_their_scores_and_free_of_the_batch():
    params, rows = random_params(DEEP_LLAMA), 400
    gate = dataclasses.replace(controllers(DEEP_LLAMA, 'fixed'), drawn=True)
    tokens = np.tile(np.random.default_rng(3).integers(2, 14, (1, 5)), (rows, 1))
    ids = np.arange(rows, dtype=np.int32)
    decoding = Decoding(limits=Limits(max_new_tokens=1), gate=gate)
    run = functools.partial(generate, DEEP_LLAMA, params, decoding=decoding)
    trace = run(tokens, np.ones_like(tokens, bool), example_ids=ids)
    ones = jnp.ones((1, 8))
    likely = [float(jax.nn.sigmoid(scores(head_of(gate), layer, ones, ones, jnp.zeros(1, int))[0, 0])) for layer in (1, 2, 3)]
    share = np.mean(trace.work.feed_forward[:, 0]) - 2
    assert abs(share - sum(likely)) < 4 * np.sqrt(sum(p * (1 - p) for p in likely) / rows)
    few = run(tokens[:3], np.ones_like(tokens[:3], bool), example_ids=ids[[7, 30, 2]])
    np.testing.assert_array_equal(few.work.feed_forward[:, 0], trace.work.feed_forward[[7, 30, 2], 0])


def test_a_hard_gate_has_the_gradient_of_its_relaxation_and_is_drawn_as_likely_as_it_is():
    logits, noise = jnp.linspace(-3, 3, 13), jnp.full(13, 0.3)
    value, gradient = jax.vmap(jax.value_and_grad(lambda x, n: straight_through(x, n, 0.7)))(logits, noise)
    soft = 1 / (1 + np.exp(-(np.asarray(logits) + 0.3) / 0.7))
    np.testing.assert_allclose(value, soft >= 0.5, atol=1e-6)
    np.testing.assert_allclose(gradient, soft * (1 - soft) / 0.7, rtol=1e-4)
    draws = logistic(jax.random.split(jax.random.key(0), 20_000), 1, ())
    for logit in (-1.0, 0.0, 2.0):
        assert abs(np.mean(logit + draws > 0) - 1 / (1 + np.exp(-logit))) < 0.012


def test_the_divergence_is_from_the_full_model_and_the_cross_entropy_to_the_target():
    rng = np.random.default_rng(0)
    made, full, targets = rng.normal(size=(1, 2, 5)), rng.normal(size=(1, 2, 5)), np.array([[3, 1]])
    p, q = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (full, made))
    np.testing.assert_allclose(divergence(*map(jnp.asarray, (made, full, targets))), (p * np.log(p / q)).sum(-1), rtol=1e-5)
    expected = -np.log(np.take_along_axis(q, targets[..., None], -1))[..., 0]
    np.testing.assert_allclose(cross_entropy(*map(jnp.asarray, (made, full, targets))), expected, rtol=1e-5)


def test_positions_are_encoded_as_vaswani_et_al_do():
    made, places = np.asarray(encoded(jnp.arange(7), 8)), np.arange(7)
    for pair in range(4):
        angle = places / 10_000 ** (2 * pair / 8)
        np.testing.assert_allclose(made[:, 2 * pair], np.sin(angle), atol=1e-6)
        np.testing.assert_allclose(made[:, 2 * pair + 1], np.cos(angle), atol=1e-6)


def test_controllers_learn_to_run_less_where_layers_cost_much_and_the_model_with_them(
    config, params, tokenizer, batches, eval_batches, tmp_path
):
    deep = dataclasses.replace(config, num_decoder_layers=3, dropout_rate=0.0)
    layers = {**params['decoder'], 'layers_2': params['decoder']['layers_1']}
    whole = {**params, 'decoder': layers}
    backbone = Optimizer('adamw', 1e-3, warmup_steps=0)
    stage = controllers_stage(deep, whole, tokenizer, alpha=20.0, backbone=backbone, dropout_steps=2, noise_at_evaluation=False)
    before = stage.report(jax.device_get(jax.jit(stage.measure)(stage.params, stage.frozen, eval_batches[0])))
    options = LoopOptions(steps=30, eval_every=0, save_every=0)
    state = fit(stage, Optimizer('adamw', 0.2, warmup_steps=0), batches, eval_batches, tmp_path, options, quiet=True)
    after = stage.report(jax.device_get(jax.jit(stage.measure)(state.params, stage.frozen, eval_batches[0])))
    assert before['share'] == 1.0 and before['agreement'] == 1.0 and before['distance'] == pytest.approx(0, abs=1e-6)
    assert after['full_nll'] == pytest.approx(before['full_nll'], abs=1e-6)  # the model that training began with
    assert after['share'] == pytest.approx(2 / 3) and after['decoder_layers'] == pytest.approx([1, 0, 1])
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), state.params['backbone'], whole)
    assert any(jax.tree.leaves(moved))


def test_a_summed_penalty_is_as_many_times_as_strong_as_there_are_layers(tokenizer):
    sums = {'tokens': 2.0, 'distance': 3.0, 'share': 1.0, 'runs': np.ones((1, 5))}
    mean, summed = (controllers_stage(DEEP_LLAMA, {}, tokenizer, alpha=0.3, summed=each) for each in (False, True))
    assert mean.report(dict(sums))['loss'] == pytest.approx(1.5 + 0.3 / 2)
    assert summed.report(dict(sums))['loss'] == pytest.approx(1.5 + 5 * 0.3 / 2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'reads': 'hidden'}, "controllers that read 'fixed'; expected 'hidden'"),
        ({'reads': 'fixed', 'hidden_width': 3}, 'controllers of bias'),
        ({'reads': 'fixed', 'sub_layers': True}, 'controllers of bias'),
    ],
)
def test_controllers_that_a_checkpoint_has_are_trained_on_as_they_are_or_not_at_all(options, message, tokenizer):
    heads = {'controllers': begun(DEEP_LLAMA, 'fixed', 0, False, seed=0)}
    controllers_stage(DEEP_LLAMA, {}, tokenizer, reads='fixed', heads=heads)
    with pytest.raises(ValueError, match=message):
        controllers_stage(DEEP_LLAMA, {}, tokenizer, heads=heads, **options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'reads': 'hiden'}, "reads is 'hiden'; expected one of hidden, embedding, position, fixed"),
        ({'alpha': -1.0}, 'alpha is -1.0'),
        ({'temperature': 0.0}, 'temperature 0.0'),
        ({'dropout_steps': 3}, 'no dropout_steps where the model is frozen'),
    ],
)
def test_settings_that_controllers_cannot_have_are_refused(options, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        controllers_stage(LLAMA, {}, tokenizer, **options)


def test_controllers_of_another_model_and_of_too_few_layers_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r'\[3, 8, 1\], of another model; expected \[5, 8, …\] for 5 layers'):
        controllers(LLAMA).check(DEEP_LLAMA.sizes)
    with pytest.raises(ValueError, match='the decoder has 2 layers, and its first and last always run'):
        controllers_stage(dataclasses.replace(LLAMA, num_decoder_layers=2), {}, tokenizer)
    with pytest.raises(ValueError, match='controllers_level is 1.5'):
        controllers(LLAMA, level=1.5)
