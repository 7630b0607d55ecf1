"""A controller that chooses of a few plans, from the states of the whole prompt."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.windows import DecodeBatch
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.depth.plans import GivenPlan
from calm_jax.training.prompt_controller import curve, fitted, prompt_features
from calm_jax.types import Plan
from tests.laws.test_work_laws import LLAMA, T5, prompt_controller
from tests.parameters import random_params

ROWS = 6


def prompts(config):
    """(tokens, mask) int32 and bool [B, S] of unlike lengths, padded as the family has it."""
    rng = np.random.default_rng(4)
    tokens, lengths = rng.integers(2, 14, (ROWS, 7)), rng.integers(2, 8, ROWS)
    mask = np.arange(7) < lengths[:, None]
    mask = mask[:, ::-1] if config.decoder_only else mask
    return np.where(mask, tokens, 0).astype(np.int32), mask


@pytest.mark.parametrize('config', (LLAMA, T5), ids=('decoder-only', 'encoder-decoder'))
def test_what_a_controller_is_trained_on_is_what_it_decides_by_and_its_plan_is_what_runs(config):
    params, (tokens, mask) = random_params(config), prompts(config)
    controller = dataclasses.replace(prompt_controller(config), level=0.8)
    batch = DecodeBatch(tokens, mask, np.arange(ROWS), np.zeros(ROWS, bool))
    given = prompt_features(config, params, [batch])
    adds = (given - controller.mean) / controller.scale @ controller.kernel + controller.bias
    chosen = [next((k for k, each in enumerate(row) if each <= 1 - 0.8), adds.shape[1]) for row in adds]
    assert len(set(chosen)) > 1
    runs = np.asarray(controller.runs, bool)[chosen]
    encoder = np.ones((ROWS, config.num_encoder_layers), bool)
    plan = Plan(*map(jnp.asarray, (runs[..., 0], runs[..., 0], runs[..., 1], encoder, encoder)))
    made, expected = (
        generate(config, params, tokens, mask, Decoding(limits=Limits(max_new_tokens=4), plan=maker))
        for maker in (controller, GivenPlan(plan))
    )
    np.testing.assert_array_equal(made.tokens, expected.tokens)
    np.testing.assert_array_equal(made.work.feed_forward, expected.work.feed_forward)
    np.testing.assert_array_equal(made.plan.self_attention, runs[..., 0])


def test_a_dial_at_one_runs_all_and_more_runs_as_it_rises():
    params, (tokens, mask) = random_params(LLAMA), prompts(LLAMA)

    def layers(level):
        controller = dataclasses.replace(prompt_controller(LLAMA), level=level)
        trace = generate(LLAMA, params, tokens, mask, Decoding(limits=Limits(max_new_tokens=1), plan=controller))
        return np.asarray(trace.work.feed_forward)[:, 0]

    made = [layers(level) for level in (0.0, 0.5, 0.8, 1.0)]
    assert (made[-1] == LLAMA.num_decoder_layers).all() and made[0].min() == 1
    assert all((later >= before).all() for before, later in zip(made, made[1:]))


def test_what_is_predicted_of_the_unseen_is_that_of_a_fit_without_it():
    rng = np.random.default_rng(0)
    given, adds = rng.normal(size=(12, 20)), rng.normal(size=(12, 2))
    made = fitted(given, adds, penalties=(3.0,))
    mean, scale = given.mean(axis=0), given.std(axis=0) + 1e-6
    x = (given - mean) / scale
    for row in range(12):
        others = np.arange(12) != row
        centre, bias = x[others].mean(axis=0), adds[others].mean(axis=0)
        z = x[others] - centre
        kernel = np.linalg.solve(z.T @ z + 3.0 * np.eye(20), z.T @ (adds[others] - bias))
        np.testing.assert_allclose(made.unseen[row], (x[row] - centre) @ kernel + bias, rtol=1e-6)


def test_of_penalties_that_is_taken_which_predicts_best_what_it_has_not_seen():
    rng = np.random.default_rng(1)
    given = rng.normal(size=(200, 5))
    noise, signal = rng.normal(size=(200, 1)), given @ rng.normal(size=(5, 1))
    assert fitted(given, noise).penalty > 1e3 * fitted(given, signal + 0.01 * noise).penalty


def test_a_curve_goes_from_all_that_runs_to_what_is_predicted_to_do():
    unseen, losses = np.array([[0.3, -0.1], [0.05, 0.2]]), np.array([[0.9, 0.5, 0.4], [0.3, 0.6, 0.2]])
    made = curve(unseen, losses, np.array([4.0, 8.0, 24.0]))
    np.testing.assert_allclose(made.levels, [1, 0.95, 0.8, 0.7, 0])
    np.testing.assert_allclose(made.costs, [(8 + 24) / 2, (8 + 4) / 2, (8 + 4) / 2, 4, 4])
    np.testing.assert_allclose(
        made.losses, [(0.5 + 0.2) / 2, (0.5 + 0.3) / 2, (0.5 + 0.3) / 2, (0.9 + 0.3) / 2, (0.9 + 0.3) / 2]
    )


def test_controllers_of_another_model_and_prompts_within_the_plan_are_refused():
    with pytest.raises(ValueError, match='of another model'):
        prompt_controller(LLAMA).check(dataclasses.replace(LLAMA, num_decoder_layers=7).sizes)
    with pytest.raises(ValueError, match='plan_prompt is plan, and PromptController plans for what follows a prompt'):
        Decoding(plan=prompt_controller(LLAMA), plan_prompt='plan')
    with pytest.raises(ValueError, match='prompt_controller_level is 2'):
        dataclasses.replace(prompt_controller(LLAMA), level=2)
    with pytest.raises(ValueError, match='of 2 prompts; expected 3 or more'):
        fitted(np.ones((2, 3)), np.ones((2, 1)))
