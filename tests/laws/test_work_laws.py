"""Work is counted where it is done: the operations of a decode are the matrix products that its program multiplies.

Of one row without padding, so that what the batch runs is what the row needs. Two things are as shaped and not as needed: a
step reads the whole ring of its caches, and a prompt all pairs of its positions; those are added to the count here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import begin, decide, finish_program, prefill_program, program
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.propagation import Eager, Lazy
from calm_jax.decoding.rows import Rows
from calm_jax.depth.adapters import ExitAdapters
from calm_jax.depth.confidence import Measure, SoftmaxMax, StateSimilarity
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.exits import Exit
from calm_jax.depth.gates import ScriptedGate
from calm_jax.depth.plans import GivenPlan, PlanMaker
from calm_jax.depth.policy import PolicyPlan, decided_alone, outputs_of, parts_of
from calm_jax.depth.prompt_controller import PromptController
from calm_jax.depth.vocabulary import DecayingPruning, FixedPruning, FrequentIds
from calm_jax.metrics import cost
from calm_jax.models.config import TransformerConfig
from calm_jax.pytrees import pytree
from calm_jax.types import Plan, Work
from tests.metrics.products import products
from tests.parameters import random_params

TOKENS, SOURCE = 6, 5
T5 = TransformerConfig(
    vocab_size=14, emb_dim=8, num_heads=2, head_dim=6, mlp_dim=10, num_encoder_layers=2, num_decoder_layers=3
)
LLAMA = dataclasses.replace(T5, num_encoder_layers=0, num_kv_heads=1, positions='rotary', mlp_activations=('silu', 'linear'))
OPT = dataclasses.replace(T5, num_encoder_layers=0, mlp_activations=('relu',), embedding_dim=4, tied_head=True)


@pytree
class ScriptedExit(Measure):
    """Sure after the layer that a table names for each token."""

    layers: np.ndarray

    def observe(self, memory, evidence):
        sure = evidence.layer + 1 >= jnp.asarray(self.layers)[evidence.position]
        return memory, sure.astype(jnp.float32), None


@pytree(static=('after',))
class DrawnPlan(PlanMaker):
    """Sub-layers drawn once, of each kind another number; asked after so many layers."""

    after: int = 0

    def __call__(self, context):
        assert (context.hidden is None) == (self.after == 0)
        rng, sizes = np.random.default_rng(12), context.sizes
        layers = (sizes.layers,) * 3 + (sizes.encoder_layers,) * 2
        return Plan(*(jnp.asarray(rng.random((context.tokens.shape[0], count)) < 0.6) for count in layers))


def prompt_controller(config):
    """One that chooses of three plans, now this and now that."""
    rng, layers = np.random.default_rng(5), config.num_decoder_layers
    runs = np.ones((3, layers, 2), bool)
    runs[0, 1:], runs[1, -1, 0] = False, False
    width = 2 * config.emb_dim
    return PromptController(
        runs=runs,
        mean=rng.normal(size=width).astype(np.float32) / 8,
        scale=np.full(width, 2, np.float32),
        kernel=rng.normal(size=(width, 2)).astype(np.float32),
        bias=np.array([0.3, 0.1], np.float32),
    )


def policy(config, level=0.5, seed=3, parts=None, layerwise=False):
    """A policy that decides one way and the other, and drops tokens where there is a source."""
    sizes, rng = config.sizes, np.random.default_rng(seed)
    width, layers, outputs = sizes.width, sizes.encoder_layers + sizes.layers, outputs_of(sizes)
    bias = np.zeros(outputs)
    bias[: 2 * layers], bias[2 * layers] = np.log(9) / 8, np.log(54) / 8
    head = {'kernel': 2 * rng.normal(size=(width, outputs)), 'bias': bias, 'hidden_bias': np.zeros(width)}
    head['scale'] = 1 + 0.5 * rng.normal(size=(layers - 1, width)) if layerwise else np.ones(width)
    head |= {
        'shift': np.zeros_like(head['scale']),
        'hidden_kernel': np.random.default_rng(seed + 2).normal(size=(width, width)) / np.sqrt(width),
    }
    head = decided_alone(head, parts_of(parts, sizes))
    return PolicyPlan(**{name: jnp.asarray(each, jnp.float32) for name, each in head.items()}, level=level)


def exits(measure=ScriptedExit(np.array([1, 3, 1, 2, 3, 1])), **options):
    return Exit(measure, threshold=0.5, **options)


ADAPTERS = ExitAdapters(
    np.full((2, 8), 1.1, np.float32), np.zeros((2, 8), np.float32), down=np.ones((2, 8, 3)) / 9, up=np.ones((2, 3, 8)) / 9
)
GATE = ScriptedGate(np.random.default_rng(1).random((TOKENS, 3, 3)) < 0.6)
FIXED = FixedPruning(keep=5, pruning_layer=1)
LISTED = FrequentIds(np.array([5, 2, 9, 1, 13], np.int32), 4)
DECAYING = DecayingPruning(keep_least=3, pruning_layer=1, partition='full')

CASES = {
    'full depth': (T5, {}),
    'exits': (T5, {'exit': exits()}),
    'exits, eager': (T5, {'exit': exits(), 'propagation': Eager()}),
    'exits by softmax, pruned': (T5, {'exit': Exit(SoftmaxMax(FIXED), threshold=0.4)}),
    'exits by contrast, pruned': (T5, {'exit': Exit(WeightedContrast(DECAYING), threshold=0.2)}),
    'exits by listed ids': (T5, {'exit': Exit(SoftmaxMax(LISTED), threshold=0.6)}),
    'exits by listed ids after two layers': (T5, {'exit': Exit(WeightedContrast(LISTED), threshold=0.4, min_exit_layer=2)}),
    'gates of sub-layers': (T5, {'gate': GATE}),
    'a plan after a layer': (T5, {'plan': DrawnPlan(after=1)}),
    'all together': (T5, {'exit': Exit(SoftmaxMax(FIXED), threshold=0.4), 'gate': GATE, 'plan': DrawnPlan(after=1)}),
    'beams within a plan': (T5, {'choice': Beam(size=3), 'plan': DrawnPlan()}),
    'decoder-only, a plan after a layer': (LLAMA, {'plan': DrawnPlan(after=1)}),
    'decoder-only, all together': (LLAMA, {'exit': exits(), 'gate': GATE, 'plan': DrawnPlan(after=2)}),
    'decoder-only, a narrower head': (OPT, {'exit': Exit(SoftmaxMax(FIXED), threshold=0.4)}),
    'decoder-only, a narrower head of listed ids': (OPT, {'exit': Exit(SoftmaxMax(LISTED), threshold=0.4)}),
    'a policy and exits': (T5, {'plan': policy(T5, 0.2, parts=('encoder', 'decoder')), 'exit': exits()}),
    'adapted states': (T5, {'exit': Exit(SoftmaxMax(FIXED), threshold=0.4, adapters=ADAPTERS)}),
    'adapted states, compared': (T5, {'exit': Exit(StateSimilarity(), threshold=0.7, adapters=ADAPTERS)}),
    'decoder-only, a policy': (LLAMA, {'plan': policy(LLAMA)}),
    'decoder-only, a prompt controller': (LLAMA, {'plan': prompt_controller(LLAMA)}),
    'a layer-wise policy': (T5, {'plan': policy(T5, parts=('encoder', 'decoder'), layerwise=True)}),
    'decoder-only, a layer-wise policy': (LLAMA, {'plan': policy(LLAMA, layerwise=True)}),
    'all together, of listed ids': (T5, {'exit': Exit(SoftmaxMax(LISTED), threshold=0.6), 'gate': GATE, 'plan': DrawnPlan()}),
}


@pytest.mark.parametrize('config, parts', CASES.values(), ids=CASES)
def test_the_cost_of_a_decode_is_the_products_that_its_program_multiplies(config, parts):
    params = random_params(config)
    tokens = np.random.default_rng(7).integers(2, 14, (1, SOURCE))
    decoding = Decoding(**{'propagation': Lazy(window=1), 'limits': Limits(max_new_tokens=TOKENS), **parts})
    run, (_, _, *others), settings = program(config, params, tokens, None, decoding, capacity=TOKENS)
    multiplied, trace = products(lambda params: run(config, params, *others, **settings), params)

    counted = cost.exact(config, [SOURCE], trace.work, trace.prefill)
    expected = counted.total - counted.decisions + _padding(config, decoding, trace)
    expected += 0 if decoding.plan is None else decoding.plan.flops(config.sizes) + _first_position(config, decoding, trace)
    assert multiplied == expected + _adapted(decoding, trace)
    assert trace.lengths[0] == TOKENS
    whole = cost.at_full_depth(config, [SOURCE], [TOKENS])
    assert whole == counted.total if not parts else whole != counted.total


def test_tokens_that_a_plan_drops_cost_nothing_after_the_first_layer():
    params = random_params(T5)
    tokens, limits = np.random.default_rng(7).integers(2, 14, (1, 8)), Limits(max_new_tokens=1)
    decoding = Decoding(limits=limits, plan=policy(T5, 0.3, parts=('tokens',)))
    decided = decide(T5, params, tokens, None, decoding)
    kept = int(decided.plan.source.sum())
    assert kept < 8
    multiplied, state = products(
        lambda params: prefill_program(
            T5,
            params,
            decided,
            decoding.resolved(),
            capacity=1,
            rows=Rows(),
            forced=None,
            head_table=None,
            log_probabilities=False,
            cursor=None,
            packing=NEVER,
            kept=kept,
        ),
        params,
    )
    nothing = jax.tree.map(lambda each: np.zeros((1, 1), np.int32), Work(*Work._fields))
    counted = cost.exact(T5, [8], nothing, state.inputs.prefill)
    first = cost.exact(T5, [8], nothing, first_layer(state.inputs.prefill))
    assert multiplied == counted.source + counted.encoder_kv - first.source
    assert counted.source < cost.exact(T5, [8], nothing, state.inputs.prefill._replace(dropped_tokens=np.zeros(1))).source


PACKED = Packing((), (1, 2), sub_layers=True)


@pytest.mark.parametrize('config', [T5, LLAMA], ids=['encoder', 'prompt'])
def test_a_packed_prefill_multiplies_what_each_of_its_rows_needs(config):
    """Of sources so long that a row is read at a time; unpacked, rows that run a sub-layer bring all others along."""
    params = random_params(config)
    source, rows = 65, 3
    tokens = np.random.default_rng(7).integers(2, 14, (rows, source))
    decoding = Decoding(limits=Limits(max_new_tokens=1), plan=DrawnPlan(), plan_prompt='plan')
    decided, nothing = decide(config, params, tokens, None, decoding), np.zeros((rows, 1), np.int32)
    settings = {'rows': Rows(), 'forced': None, 'head_table': None, 'log_probabilities': False, 'cursor': None, 'kept': None}

    def multiplied(packing):
        arguments, options = (decided, decoding.resolved()), {'capacity': 1, 'packing': packing, **settings}
        return products(lambda params: prefill_program(config, params, *arguments, **options), params)

    operations, state = multiplied(PACKED)
    prefill = state.inputs.prefill
    counted = cost.exact(config, [source] * rows, Work(*[nothing] * len(Work._fields)), prefill)
    expected = np.sum(counted.source + counted.encoder_kv)
    if config.decoder_only:  # all pairs of its positions, as in `_padding`
        pairs = (source - 1) ** 2 - (source - 1) * source // 2
        expected += np.sum(prefill.prompt_attention) * pairs * 4 * config.num_heads * config.head_dim
    assert operations == expected
    assert operations < multiplied(NEVER)[0]


def test_what_a_batch_executes_is_what_its_steps_multiply():
    """Of plans without attention: but for the head, feed-forwards, for as many rows as are packed."""
    params, rng, rows = random_params(T5), np.random.default_rng(3), 4
    tokens, never, drawn = rng.integers(2, 14, (rows, SOURCE)), np.zeros((rows, 3), bool), rng.random((rows, 3)) < 0.5
    plan = GivenPlan(Plan(never, never, drawn, np.ones((rows, 2), bool), np.ones((rows, 2), bool)))
    decoding, executed = Decoding(limits=Limits(max_new_tokens=TOKENS), plan=plan), []
    state = begin(T5, params, tokens, None, decoding)
    for packing in (NEVER, PACKED):
        multiplied, trace = products(
            lambda params, packing=packing: finish_program(T5, params, *state, decoding.resolved(), packing=packing), params
        )
        head, feed_forward = 2 * T5.emb_dim * T5.vocab_size, 2 * (1 + len(T5.mlp_activations)) * T5.emb_dim * T5.mlp_dim
        executed.append(int(trace.executed.sum()))
        assert multiplied == rows * int(trace.lengths.max()) * head + executed[-1] * feed_forward
    assert int(np.sum(trace.work.feed_forward)) <= executed[1] < executed[0]


def first_layer(prefill):
    """The work of the encoder's first layer over the whole source, which was done when the plan was made."""
    nothing = jax.tree.map(lambda each: np.zeros_like(each), prefill)
    one = np.ones(1, np.int32)
    return nothing._replace(encoder_attention=one, encoder_feed_forward=one)


def _first_position(config, decoding, trace):
    """Operations of the first position in the decoder's layers but the last, where each is decided from the one before."""
    if config.decoder_only or not decoding.plan.layerwise:
        return 0
    of, key = cost.of_token(config), 4 * config.num_heads * config.head_dim
    prices = of.queries_outputs + of.keys_values + key, of.queries_outputs + SOURCE * key, of.feed_forward
    return sum(price * int(part[0, :-1].sum()) for price, part in zip(prices, trace.plan[:3]))


def _adapted(decoding, trace):
    """Products of exit adapters: of all layers but the last that a token visited, and of those before, which are compared."""
    if decoding.exit is None or decoding.exit.adapters is None:
        return 0
    visited, (_, width, rank) = np.asarray(trace.exit_layers[0]), decoding.exit.adapters.down.shape
    looks = np.minimum(visited, 2).sum() + (visited - 1).sum() * decoding.exit.measure.reads_previous
    return looks * 4 * width * rank


def _padding(config, decoding, trace):
    """The operations of keys that are read and hidden, and of looking embeddings up where they are projected."""
    read = SOURCE - 1 if config.decoder_only else 0
    hidden = read + TOKENS - (read + np.arange(1, trace.work.self_attention.shape[1] + 1))
    pairs = np.sum(trace.work.self_attention * hidden)
    if config.decoder_only:
        after = trace.prefill.prompt_last[0]
        pairs = pairs + after * (SOURCE**2 - SOURCE * (SOURCE + 1) // 2)
        pairs = pairs + (trace.prefill.prompt_attention[0] - after) * (read**2 - read * (read + 1) // 2)
    looked_up = read + int(trace.lengths[0]) if config.embedding_dim else 0
    return pairs * 4 * config.num_heads * config.head_dim + looked_up * 2 * config.embedding_dim * config.emb_dim
