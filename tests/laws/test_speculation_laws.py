"""Self-speculation: whatever is drafted, what is said is what full depth says, token for token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding import speculation
from calm_jax.decoding.choice import Beam, Sampled
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.decoding.propagation import Eager, LazyAdapted
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.rules import Rules
from calm_jax.decoding.state import Round
from calm_jax.depth.confidence import Classifier, Measure, Oracle, SoftmaxGap, SoftmaxMax
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.exits import Exit
from calm_jax.depth.plans import Uniform
from calm_jax.depth.vocabulary import FixedPruning, FrequentIds
from calm_jax.pytrees import pytree
from tests.laws.definitions import KERNEL, tiny_sources
from tests.laws.test_slot_laws import DECODERS, LENGTH, LIMITS, Closed, adapters, texts

FREQUENT = FrequentIds(np.array([7, 1, 12, 4, 9, 2, 13, 0, 3, 5], np.int32), 6)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def drafting(request, monkeypatch):
    """Every round drafts, though it may lose by that."""
    if 'pays' not in request.function.__name__:
        monkeypatch.setattr(speculation, 'SLACK', 1000.0)
        monkeypatch.setattr(speculation, 'MOST', 1e6)


@pytest.fixture(scope='module')
def tiny(config, params):
    """Decodes the sources of the laws; parts are those of a `Decoding`, options those of `generate`."""

    def run(options=None, length=12, **parts):
        with jax.enable_x64(True):
            cast = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)
            wide, sources = dataclasses.replace(config, dtype='float64'), tiny_sources()
            decoding = Decoding(limits=Limits(max_new_tokens=length), **parts)
            return jax.device_get(generate(wide, cast, sources, sources != config.pad_id, decoding, **(options or {})))

    return run


def says_the_same(one, other):
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.lengths, other.lengths)


@pytree
class Scripted(Measure):
    """Sure after the layer that a table names for each token of each row, and of a token that it names there."""

    layers: np.ndarray
    tokens: np.ndarray

    @property
    def predicts(self):
        return True

    def observe(self, memory, evidence):
        place = jnp.minimum(evidence.position, self.layers.shape[1] - 1)[:, None]
        layer, token = (jnp.take_along_axis(jnp.asarray(each), place, axis=1)[:, 0] for each in (self.layers, self.tokens))
        return memory, (evidence.layer + 1 >= layer).astype(jnp.float32), token


@pytest.mark.parametrize('width', (1, 2, 4, 8))
def test_whatever_is_drafted_what_is_said_is_what_full_depth_says(tiny, width):
    full = tiny()
    for threshold in (0.0, 0.1, 0.3, 0.9):
        trace = tiny(exit=Exit(SoftmaxGap(), threshold, verify=width))
        says_the_same(trace, full)
        drafts = trace.drafts
        assert (drafts.accepted <= drafts.drafted).all()
        assert (trace.lengths >= drafts.accepted.sum(axis=1)).all() and (trace.lengths >= drafts.rounds).all()
        assert (trace.work.feed_forward.sum(axis=1) >= 3 * trace.lengths).all()


@pytest.mark.parametrize('right', ('all', 'none', 'some'))
def test_drafts_that_are_right_are_accepted_and_wrong_ones_cost_and_change_nothing(tiny, right):
    full, width = tiny(), 4
    rng = np.random.default_rng(0)
    wrong = {'all': np.zeros(full.tokens.shape, bool), 'none': np.ones(full.tokens.shape, bool)}.get(right)
    wrong = rng.random(full.tokens.shape) < 0.4 if wrong is None else wrong
    tokens = np.where(wrong, wrong_again(full), full.tokens)
    layers = rng.integers(1, 3, full.tokens.shape).astype(np.int32)
    trace = tiny(exit=Exit(Scripted(np.full_like(layers, 1) if right == 'all' else layers, tokens), 0.5, verify=width))
    says_the_same(trace, full)
    if right == 'all':
        np.testing.assert_array_equal(trace.drafts.rounds, -(-full.lengths // width))
        np.testing.assert_array_equal(trace.work.feed_forward.sum(axis=1), 3 * full.lengths)
    if right == 'none':
        assert not trace.drafts.accepted.any()
        np.testing.assert_array_equal(trace.drafts.rounds, full.lengths)


def wrong_again(full):
    """Tokens that full depth never says."""
    return ((full.tokens + 1) % 14).astype(np.int32)


def test_drafting_goes_on_while_it_pays_and_no_longer(tiny):
    full, width = tiny(), 6
    layers = np.ones(full.tokens.shape, np.int32)

    def run(tokens):
        trace = tiny(exit=Exit(Scripted(layers, tokens), 0.5, verify=width))
        says_the_same(trace, full)
        return trace.drafts

    right, wrong = run(full.tokens), run(wrong_again(full))
    np.testing.assert_array_equal(right.rounds, -(-full.lengths // width))
    np.testing.assert_array_equal(wrong.rounds, full.lengths)
    assert (wrong.drafted[:, 0] == 1).all()  # the first round, and no other


def test_what_a_round_takes_is_counted_in_tokens_of_models_of_any_size(config):
    """LLaMA 3.2 1B: operations of its layers are beyond int32."""
    large = {'num_encoder_layers': 0, 'num_decoder_layers': 16, 'emb_dim': 2048, 'num_heads': 32, 'num_kv_heads': 8}
    large |= {'head_dim': 64, 'mlp_dim': 8192, 'vocab_size': 128_256, 'mlp_activations': ('silu', 'linear')}
    large = dataclasses.replace(config, **large)
    rows, width, layers = 2, 4, 16
    depth, there = np.full((rows, width), layers, np.int32), np.zeros((rows, width), bool)
    numbers, scored = np.zeros((rows, width), np.int32), np.zeros((rows, width, 3), np.int32)
    nothing = Round(there, there[:, 0], numbers[:, 0], numbers[:, 0], numbers, depth, scored, numbers.astype(np.float32))
    with jax.enable_x64(False):
        price = jax.jit(lambda drafted: speculation._price(large, drafted))
        first = np.arange(width) < 1
        whole = nothing._replace(there=there | first, scored=scored + np.array([1, 128_256, 0]))
        assert price(nothing) == 0 and abs(float(price(whole)) - 1) < 1e-6
        early = nothing._replace(there=~there, depth=np.full_like(depth, 4), scored=scored)
        head = 2048 * 128_256
        share = 4 * 4 / layers * (1 - head / (16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192) + head))
        assert share < price(early) < share + (8 + rows * width) / (8 + rows)


@pytest.mark.parametrize('name', DECODERS)
def test_in_every_family_drafts_change_nothing(name):
    config, params, sources, mask = texts(name)
    limits = Rows(limit=LIMITS)

    def run(**parts):
        decoding = Decoding(limits=Limits(max_new_tokens=LENGTH), **parts)
        return jax.device_get(generate(config, params, sources, mask, decoding, rows=limits, log_probabilities=True))

    full, trace = run(), run(exit=Exit(SoftmaxGap(), 0.0, verify=3))
    says_the_same(trace, full)
    assert len(set(full.lengths.tolist())) > 3 and trace.drafts.accepted.any()
    np.testing.assert_allclose(trace.log_probabilities, full.log_probabilities, atol=1e-6)


def test_of_a_decoder_only_model_adapters_and_listed_ids_draft_together():
    config, params, sources, mask = texts('llama_3')

    def run(**parts):
        decoding = Decoding(limits=Limits(max_new_tokens=LENGTH), **parts)
        options = {'rows': Rows(limit=LIMITS), 'log_probabilities': True}
        return jax.device_get(generate(config, params, sources, mask, decoding, **options))

    full, trace = run(), run(exit=Exit(SoftmaxGap(FREQUENT), 0.0, adapters=adapters(config), verify=3))
    says_the_same(trace, full)
    assert trace.drafts.drafted.any() and (trace.drafts.accepted <= trace.drafts.drafted).all()


MEASURES = {
    'the largest probability of a pruned head': Exit(SoftmaxMax(FixedPruning(keep=5, pruning_layer=1)), 0.3, verify=3),
    'listed ids': Exit(SoftmaxGap(FREQUENT), 0.2, verify=3),
    'a contrast': Exit(WeightedContrast(), 0.1, verify=3),
    'a classifier': Exit(Classifier(KERNEL, np.zeros(1, np.float32)), 0.4, verify=3, min_exit_layer=2),
    'adapted states': None,
}
# A pruned head ranks a part at the last layer too, and a contrast may say something else there: full depth never does.
UNLIKE = {
    'drawn of a pruned head under rules': {
        'exit': Exit(SoftmaxGap(FixedPruning(keep=5)), 0.5, verify=3),
        'choice': Sampled(1.2),
        'rules': Rules(repetition_penalty=1.8, no_repeat_ngram_size=2, min_new_tokens=4),
    },
    'a contrast that speaks': {'exit': Exit(WeightedContrast(emits='dola'), 0.5, verify=3)},
}


@pytest.mark.parametrize('name', UNLIKE)
@pytest.mark.parametrize('threshold', (0.2, 0.95))
def test_what_the_last_layer_is_followed_by_is_what_the_whole_head_says(tiny, name, threshold):
    parts = dict(UNLIKE[name])
    rule = dataclasses.replace(parts.pop('exit'), threshold=threshold)
    says_the_same(tiny(exit=rule, **parts), tiny(**parts))


@pytest.mark.parametrize('name', MEASURES)
def test_every_measure_drafts(tiny, config, name):
    rule = MEASURES[name] or Exit(SoftmaxGap(), 0.2, adapters=adapters(config), verify=3)
    trace = tiny(exit=rule)
    says_the_same(trace, tiny())
    assert trace.drafts.accepted.any()


def test_draws_and_rules_are_those_of_full_depth(tiny):
    parts = {'choice': Sampled(1.2, top_k=5), 'rules': Rules(repetition_penalty=1.2)}
    full, trace = tiny(**parts), tiny(exit=Exit(SoftmaxGap(), 0.1, verify=3), **parts)
    says_the_same(trace, full)
    assert trace.drafts.accepted.any()


def test_rows_have_their_own_thresholds_and_one_of_one_is_full_depth_in_rounds_of_its_own(tiny):
    thresholds = np.array([0.0, 0.2, 1.0, 0.5, 1.0], np.float32)
    trace = tiny({'rows': Rows(threshold=thresholds)}, exit=Exit(SoftmaxGap(), 0.5, verify=3))
    says_the_same(trace, tiny())
    full = thresholds == 1
    assert not trace.drafts.drafted[full].any() and trace.drafts.drafted[~full].any(axis=1).all()
    np.testing.assert_array_equal(trace.drafts.rounds[full], -(-trace.lengths[full] // 3))


def test_what_is_forced_is_said_and_drafts_go_on_after_it(tiny):
    forced = np.full((5, 12), -1, np.int32)
    forced[:, 2], forced[1, 0] = 7, 4
    says_the_same(tiny({'forced': forced}, exit=Exit(SoftmaxGap(), 0.1, verify=4)), tiny({'forced': forced}))


def test_what_cannot_be_verified_is_refused(tiny, config):
    rule = Exit(SoftmaxGap(), 0.5, verify=2)
    with pytest.raises(ValueError, match='verify is -1; expected 1 or more drafts, or 0 for none'):
        Exit(SoftmaxGap(), 0.5, verify=-1)
    with pytest.raises(ValueError, match='verify with propagation Eager'):
        Decoding(exit=rule, propagation=Eager())
    with pytest.raises(ValueError, match='verify with measure Oracle, which looks ahead at what full depth says'):
        Decoding(exit=Exit(Oracle(), 0.5, verify=2))
    with pytest.raises(ValueError, match='verify is 9, and no text has more than 8 tokens; expected at most that'):
        Decoding(limits=Limits(max_new_tokens=8), exit=Exit(SoftmaxGap(), 0.5, verify=9))
    assert Decoding(limits=Limits(max_new_tokens=8), exit=Exit(SoftmaxGap(), 1.0, verify=9)).resolved().exit is None
    with pytest.raises(ValueError, match='verify with a plan: drafts are verified by all layers'):
        Decoding(exit=rule, plan=Uniform(0.5))
    with pytest.raises(ValueError, match='verify with a gate: drafts are verified by all layers'):
        Decoding(exit=rule, gate=Closed())
    with pytest.raises(ValueError, match='beam search with an exit that verifies'):
        Decoding(exit=rule, choice=Beam(2))
    with pytest.raises(ValueError, match='propagation is of adapted states, and there is no exit with adapters'):
        Decoding(exit=Exit(SoftmaxGap(), 0.5), propagation=LazyAdapted()).check(config.sizes)
    with pytest.raises(ValueError, match='rows have depths, at which nothing adapts their states'):
        tiny({'rows': Rows(depth=np.full(5, 2, np.int32))}, exit=Exit(SoftmaxGap(), 0.5, adapters=adapters(config)))
    with pytest.raises(ValueError, match='verify with rows of their own depths'):
        tiny({'rows': Rows(depth=np.full(5, 2, np.int32))}, exit=rule)
