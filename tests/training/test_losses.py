import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.training import losses


def test_exit_weights_sum_to_one_and_follow_the_paper():
    np.testing.assert_allclose(losses.proportional_to_layer(4), [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(losses.uniform(4), [0.25] * 4)
    np.testing.assert_array_equal(losses.last_only(3), [0, 0, 1])


def test_cross_entropy_of_two_equal_logits_is_log_two():
    found = losses.token_losses(jnp.zeros((1, 1, 2)), jnp.array([[1]]))
    np.testing.assert_allclose(found.nll, [[np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(found.objective, found.nll)


def test_eq_6_by_hand_for_three_exits_over_two_tokens():
    # Exit i gives the target probability p_i against one other token; ω = 1/6, 2/6, 3/6.
    probabilities = np.array([0.5, 0.8, 0.9])
    states = [jnp.full((1, 2, 1), np.log(p / (1 - p))) for p in probabilities]

    def unembed(state):
        return jnp.concatenate([state, jnp.zeros_like(state)], axis=-1)

    losses_of = losses.exit_losses(unembed, jnp.zeros((1, 2), int))
    sums = losses.multi_exit_loss(losses_of, states, jnp.array([[1.0, 1.0]]), losses.proportional_to_layer(3))
    expected = -2 * (np.log(0.5) * 1 + np.log(0.8) * 2 + np.log(0.9) * 3) / 6
    np.testing.assert_allclose(sums.objective, expected, rtol=1e-6)
    np.testing.assert_allclose(sums.nll, -2 * np.log(probabilities), rtol=1e-6)
    assert float(sums.tokens) == 2


def test_a_perfect_smoothed_prediction_scores_zero():
    smoothing, vocab_size = 0.1, 5
    target = np.full(vocab_size, smoothing / (vocab_size - 1))
    target[2] = 1 - smoothing
    found = losses.token_losses(jnp.log(target)[None, None], jnp.array([[2]]), smoothing)
    np.testing.assert_allclose(found.objective, [[0.0]], atol=1e-6)


def test_smoothed_loss_is_the_divergence_from_the_smoothed_target():
    logits = np.random.RandomState(0).randn(1, 1, 6)
    target = np.full(6, 0.2 / 5)
    target[4] = 0.8
    log_p = logits[0, 0] - np.log(np.exp(logits[0, 0]).sum())
    expected = (target * (np.log(target) - log_p)).sum()
    found = losses.token_losses(jnp.asarray(logits), jnp.array([[4]]), 0.2)
    np.testing.assert_allclose(found.objective[0, 0], expected, rtol=1e-5)


def test_z_loss_is_the_squared_log_normaliser():
    logits = jnp.log(jnp.array([[[1.0, 3.0, 4.0]]]))
    found = losses.token_losses(logits, jnp.array([[0]]), z_loss=0.01)
    np.testing.assert_allclose(found.objective - found.nll, [[0.01 * np.log(8.0) ** 2]], rtol=1e-5)


def test_huge_logits_do_not_overflow():
    found = losses.token_losses(jnp.array([[[3e4, -3e4]]]), jnp.array([[0]]))
    np.testing.assert_allclose(found.nll, [[0.0]])


def test_bfloat16_logits_are_normalised_in_float32():
    logits = jnp.array([[[1.0, 2.0, 3.0]]], jnp.bfloat16)
    found = losses.token_losses(logits, jnp.array([[1]]))
    assert found.nll.dtype == jnp.float32
    np.testing.assert_allclose(found.nll[0, 0], np.log(np.exp([1.0, 2.0, 3.0]).sum()) - 2, rtol=1e-6)


@pytest.fixture(scope='module')
def exits():
    """A head [D, V], three layers' states [B, T, D], targets and weights of unequal lengths [B, T]."""
    random = np.random.RandomState(0)
    head = random.randn(6, 11).astype(np.float32)
    states = [random.randn(4, 5, 6).astype(np.float32) for _ in range(3)]
    targets = random.randint(0, 11, size=(4, 5))
    token_weights = (np.arange(5) < np.array([[5], [2], [4], [1]])).astype(np.float32)
    return head, states, targets, token_weights


def naive_loss(head, states, targets, token_weights, exit_weights, smoothing):
    """Eq. 6 with all [L, B, T, V] logits at once, and one-hot targets."""
    logits = jnp.stack(states) @ head
    vocab_size = logits.shape[-1]
    one_hot = jax.nn.one_hot(targets, vocab_size)
    target = one_hot * (1 - smoothing) + (1 - one_hot) * smoothing / (vocab_size - 1)
    by_token = jnp.sum(target * (jnp.log(target) - jax.nn.log_softmax(logits)), axis=-1)
    return jnp.einsum('lbt,bt,l->', by_token, token_weights, exit_weights), logits


def test_loss_and_gradient_equal_those_of_all_logits_at_once(exits):
    head, states, targets, token_weights = exits
    weights = losses.proportional_to_layer(3)

    def scanned(head, states):
        losses_of = losses.exit_losses(lambda h: h @ head, targets, label_smoothing=0.1)
        sums = losses.multi_exit_loss(losses_of, states, token_weights, weights)
        return sums.objective, sums

    def naive(head, states):
        return naive_loss(head, states, targets, token_weights, weights, 0.1)

    (found, sums), found_grads = jax.jit(jax.value_and_grad(scanned, (0, 1), has_aux=True))(head, states)
    (expected, logits), grads = jax.jit(jax.value_and_grad(naive, (0, 1), has_aux=True))(head, states)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found_grads, grads)
    np.testing.assert_array_equal(sums.correct, ((np.argmax(logits, -1) == targets) * token_weights).sum((1, 2)))
    assert 0 < sums.correct.sum() < 3 * token_weights.sum()


def test_padding_changes_nothing(exits):
    head, states, targets, token_weights = exits
    noisy = [np.where(token_weights[..., None] > 0, state, 7.0) for state in states]
    losses_of = losses.exit_losses(lambda h: h @ head, targets)
    loss = jax.jit(lambda states: losses.multi_exit_loss(losses_of, states, token_weights, losses.uniform(3)))
    jax.tree.map(np.testing.assert_array_equal, loss(states), loss(noisy))


def test_the_sums_of_parts_of_a_batch_add_up_to_the_batch_s(exits):
    head, states, targets, token_weights = exits

    def sums(rows):
        return losses.multi_exit_loss(
            losses.exit_losses(lambda h: h @ head, targets[rows], 0.1, 1e-4),
            [state[rows] for state in states],
            token_weights[rows],
            losses.proportional_to_layer(3),
        )

    halves = jax.tree.map(jnp.add, sums(slice(0, 2)), sums(slice(2, 4)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), halves, sums(slice(None)))


def test_the_logits_of_all_exits_are_never_alive_together():
    num_layers, tokens, dim, vocab_size = 8, 64, 4, 4096
    states = [jnp.ones((1, tokens, dim))] * num_layers
    targets, counts = jnp.zeros((1, tokens), int), jnp.ones((1, tokens))

    def loss(head, states):
        losses_of = losses.exit_losses(lambda h: h @ head, targets)
        return losses.multi_exit_loss(losses_of, states, counts, losses.uniform(num_layers)).objective

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(jnp.ones((dim, vocab_size)), states).compile()
    one_exit = tokens * vocab_size * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * one_exit


def test_sampled_exits_estimate_eq_6_without_bias():
    # With one token per draw the expectation over all draws is a sum; many independent tokens approach it.
    random = np.random.RandomState(0)
    values = random.rand(3).astype(np.float32)
    tokens = 20_000
    states = [jnp.full((1, tokens, 1), value) for value in values]
    weights = losses.proportional_to_layer(3)

    def unembed(state):
        return jnp.concatenate([state, jnp.zeros_like(state)], axis=-1)

    losses_of, counts = losses.exit_losses(unembed, jnp.zeros((1, tokens), int)), jnp.ones((1, tokens))
    exact = losses.multi_exit_loss(losses_of, states, counts, weights).objective
    found = losses.sampled_multi_exit_loss(losses_of, states, counts, weights, jax.random.key(0))
    np.testing.assert_allclose(found, exact, rtol=2e-3)
    # The draws matter: one exit for every token would be off by far more.
    assert abs(float(losses.multi_exit_loss(losses_of, states, counts, losses.last_only(3)).objective / exact - 1)) > 0.02


def test_sampled_exits_with_the_last_exit_only_are_exact():
    states = [jnp.ones((1, 2, 1)) * i for i in range(3)]

    def unembed(state):
        return jnp.concatenate([state, jnp.zeros_like(state)], axis=-1)

    losses_of, counts = losses.exit_losses(unembed, jnp.zeros((1, 2), int)), jnp.ones((1, 2))
    exact = losses.multi_exit_loss(losses_of, states, counts, losses.last_only(3)).objective
    found = losses.sampled_multi_exit_loss(losses_of, states, counts, losses.last_only(3), jax.random.key(0))
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize('loss', ['multi_exit_loss', 'sampled_multi_exit_loss'])
def test_a_wrong_number_of_exit_weights_is_refused(loss):
    extra = (jax.random.key(0),) if loss.startswith('sampled') else ()
    with pytest.raises(ValueError, match='2 exit weights for 3 decoder layers'):
        getattr(losses, loss)(None, [1, 2, 3], None, losses.uniform(2), *extra)
