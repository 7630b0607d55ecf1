"""Operation counts: term by term by hand, against a decoder that counts its own products, and against the model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from calm_jax.metrics import cost
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer, init_params
from calm_jax.types import Plan

TINY = TransformerConfig(
    vocab_size=11, emb_dim=4, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=2, num_decoder_layers=3
)
PLAIN = TransformerConfig(
    vocab_size=11,
    emb_dim=6,
    num_heads=2,
    head_dim=3,
    mlp_dim=5,
    num_encoder_layers=1,
    num_decoder_layers=4,
    mlp_activations=('relu',),
)
SOFTMAX = 2 * 4 * 11


def random_exits(seed, config, rows=6, longest=7):
    rng = np.random.default_rng(seed)
    return [list(rng.integers(1, config.num_decoder_layers + 1, rng.integers(1, longest))) for _ in range(rows)]


class CountingDecoder:
    """Decodes one row with zeros for weights, layer by layer and token by token, and counts every matrix product."""

    def __init__(self, config, source_length, propagation='lazy', plan=None, gate=None):
        self.config, self.source_length, self.propagation = config, source_length, propagation
        layers = config.num_decoder_layers
        self.plan = plan or [[True] * layers] * 3 + [[True] * config.num_encoder_layers] * 2
        self.gate = gate
        self.keys = [[] for _ in range(layers)]  # per layer the positions that hold keys and values
        self.operations = dict.fromkeys(cost.Cost._fields, 0)

    def product(self, term, left, right):
        self.operations[term] += 2 * left[0] * left[1] * right[1]
        return (np.zeros(left) @ np.zeros(right)).shape

    def attend(self, term, queries, keys, project_kv):
        c = self.config
        joined = c.num_heads * c.head_dim
        self.product(term, (queries, c.emb_dim), (c.emb_dim, joined))
        if project_kv:
            self.project_kv(term, queries)
        for _ in range(c.num_heads):
            scores = self.product(term, (queries, c.head_dim), (c.head_dim, keys))
            self.product(term, scores, (keys, c.head_dim))
        self.product(term, (queries, joined), (joined, c.emb_dim))

    def project_kv(self, term, positions):
        c = self.config
        for _ in ('key', 'value'):
            self.product(term, (positions, c.emb_dim), (c.emb_dim, c.num_heads * c.head_dim))

    def feed_forward(self, term, positions):
        c = self.config
        for _ in c.mlp_activations:
            self.product(term, (positions, c.emb_dim), (c.emb_dim, c.mlp_dim))
        self.product(term, (positions, c.mlp_dim), (c.mlp_dim, c.emb_dim))

    def decode(self, exits, confidence=0, predicts=False, first=1):
        c, source = self.config, self.source_length
        for attention, feed_forward in zip(*self.plan[3:]):
            if attention:
                self.attend('source', source, source, project_kv=True)
            if feed_forward:
                self.feed_forward('source', source)
        for cross in self.plan[1]:
            if cross:
                self.project_kv('encoder_kv', source)
        for position, exit_layer in enumerate(exits):
            observed = False
            for layer in range(c.num_decoder_layers):
                self_attention, cross, feed_forward = (kind[layer] for kind in self.plan[:3])
                runs = layer < exit_layer and (self.gate is None or self.gate[position][layer])
                if self_attention and layer < exit_layer:
                    missing = [p for p in range(position) if p not in self.keys[layer]]
                    self.project_kv('skipped_kv', len(missing))
                    self.keys[layer] += missing + [position]
                    if runs:
                        self.attend('decoder', 1, len(self.keys[layer]), project_kv=True)
                    else:
                        self.project_kv('skipped_kv', 1)
                elif self_attention and self.propagation == 'eager':
                    self.project_kv('skipped_kv', 1)
                    self.keys[layer].append(position)
                if runs and cross:
                    self.attend('decoder', 1, source, project_kv=False)
                if runs and feed_forward:
                    self.feed_forward('decoder', 1)
                if runs and (self_attention or cross or feed_forward) and layer + 1 >= first:
                    self.operations['confidence'] += confidence
                    observed = True
            if not (predicts and observed):
                self.product('head', (1, c.emb_dim), (c.emb_dim, c.vocab_size))
        return self.operations


def assert_counts_agree(counted, rows):
    for term in cost.Cost._fields:
        np.testing.assert_array_equal(getattr(counted, term), [row[term] for row in rows], err_msg=term)


def test_every_term_of_one_token_by_hand():
    # D 4, A 6, F 5, two input projections, V 11; S 3; one token that leaves after layer 2 of 3
    counted = cost.exact(TINY, [3], [[2]], confidence_flops_per_layer=8)
    feed_forward = 2 * 4 * 5 + 2 * 4 * 5 + 2 * 5 * 4
    assert counted.source == 2 * (4 * (2 * 3 * 4 * 6) + 2 * (2 * 3 * 3 * 6) + 3 * feed_forward)
    assert counted.encoder_kv == 3 * 2 * (2 * 3 * 4 * 6)
    assert counted.decoder == 2 * (4 * (2 * 4 * 6) + 2 * (2 * 1 * 6) + 2 * (2 * 4 * 6) + 2 * (2 * 3 * 6) + feed_forward)
    assert counted.skipped_kv == 0
    assert counted.confidence == 2 * 8
    assert counted.head == 2 * 4 * 11
    assert counted.total == sum(counted)


def test_keys_and_values_of_skipped_layers_by_hand():
    # 4·D·A = 96 each. Exits 1, 3, 2, 1 of 3: the first position is filled in layers 2 and 3 when the second enters
    # them; the third and fourth are followed by nothing that goes higher.
    exits = [[1, 3, 2, 1]]
    assert cost.exact(TINY, [3], exits).skipped_kv == 2 * 96
    assert cost.exact(TINY, [3], exits, propagation='eager').skipped_kv == (2 + 0 + 1 + 2) * 96
    assert cost.exact(TINY, [3], exits, propagation='copy').skipped_kv == 0
    assert cost.exact(TINY, [3], [[1, 2, 1, 3, 1]]).skipped_kv == (2 + 1 + 2) * 96


def test_a_measure_that_predicts_replaces_the_head_and_one_that_does_not_adds_to_it():
    exits = [[1, 3, 2]]
    softmax = cost.exact(TINY, [3], exits, confidence_flops_per_layer=SOFTMAX, predicts=True)
    assert softmax.confidence == 6 * SOFTMAX and softmax.head == 0
    classifier = cost.exact(TINY, [3], exits, confidence_flops_per_layer=2 * 4)
    assert classifier.confidence == 6 * 8 and classifier.head == 3 * SOFTMAX


def test_a_measure_costs_nothing_at_layers_that_it_does_not_look_at():
    counted = cost.exact(TINY, [3], [[2, 3, 2]], confidence_flops_per_layer=[0, SOFTMAX, SOFTMAX], predicts=[False, True, True])
    assert counted.confidence == (1 + 2 + 1) * SOFTMAX and counted.head == 0


def test_a_measure_may_cost_less_at_later_layers():
    counted = cost.exact(TINY, [3], [[1, 3, 2]], confidence_flops_per_layer=[100, 10, 1], predicts=True)
    assert counted.confidence == 100 + 111 + 110
    published = cost.elbayad(TINY, [3], [[1, 3, 2]], confidence_flops_per_layer=[100, 10, 1], predicts=True)
    assert published.confidence == 100 + 111 + 110


@pytest.mark.parametrize('config', [TINY, PLAIN], ids=['gated', 'plain'])
@pytest.mark.parametrize('propagation', ['lazy', 'eager'])
@pytest.mark.parametrize('predicts', [True, False])
def test_counts_are_those_of_a_decoder_that_counts_its_own_products(config, propagation, predicts):
    exits, sources = random_exits(0, config), [5, 1, 2, 9, 3, 4]
    later = np.arange(config.num_decoder_layers) > 0
    counted = cost.exact(
        config, sources, exits, confidence_flops_per_layer=7 * later, predicts=predicts & later, propagation=propagation
    )
    assert_counts_agree(
        counted,
        [CountingDecoder(config, source, propagation).decode(row, 7, predicts, first=2) for source, row in zip(sources, exits)],
    )


@pytest.mark.parametrize('propagation', ['lazy', 'eager'])
def test_counts_under_a_plan_are_those_of_a_decoder_that_leaves_the_sub_layers_out(propagation):
    rng = np.random.default_rng(1)
    exits, sources = random_exits(2, TINY), [5, 1, 2, 9, 3, 4]
    plan = Plan(*(rng.random((6, layers)) < 0.6 for layers in (3, 3, 3, 2, 2)))
    counted = cost.exact(TINY, sources, exits, confidence_flops_per_layer=7, predicts=True, plan=plan, propagation=propagation)
    assert_counts_agree(
        counted,
        [
            CountingDecoder(TINY, sources[b], propagation, plan=[kind[b] for kind in plan]).decode(exits[b], 7, True)
            for b in range(6)
        ],
    )


@pytest.mark.parametrize('propagation', ['lazy', 'eager'])
def test_counts_under_gates_are_those_of_a_decoder_that_passes_layers_by(propagation):
    rng = np.random.default_rng(3)
    exits, sources = random_exits(4, TINY), [5, 1, 2, 9, 3, 4]
    gates = [rng.random((len(row), 3)) < 0.5 for row in exits]
    run = [[int(gate[t, :layer].sum()) for t, layer in enumerate(row)] for gate, row in zip(gates, exits)]
    counted = cost.exact(
        TINY, sources, exits, confidence_flops_per_layer=7, predicts=True, layers_run=run, propagation=propagation
    )
    assert_counts_agree(
        counted,
        [
            CountingDecoder(TINY, source, propagation, gate=gate).decode(row, 7, True)
            for source, row, gate in zip(sources, exits, gates)
        ],
    )


def test_a_plan_without_gates_may_come_with_the_layers_it_ran():
    plan = Plan(*(np.array([[True, False, True]]) for _ in range(3)), *(np.ones((1, 2), bool) for _ in range(2)))
    alone = cost.exact(TINY, [4], [[3, 2, 1]], plan=plan)
    told = cost.exact(TINY, [4], [[3, 2, 1]], plan=plan, layers_run=[[2, 1, 1]])
    for without, given in zip(alone, told):
        np.testing.assert_array_equal(without, given)
    assert told.decoder < cost.exact(TINY, [4], [[3, 2, 1]]).decoder


def products(jaxpr):
    """Operations of all matrix products in a traced computation."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            total += 2 * int(np.prod(equation.outvars[0].aval.shape)) * int(np.prod([left[i] for i in contracted]))
        for inner in jaxprs_in_params(equation.params):
            total += products(inner)
    return total


GROUPED = dataclasses.replace(PLAIN, num_heads=4, num_kv_heads=2, embedding_dim=3, tied_head=True)


@pytest.mark.parametrize('config', [TINY, PLAIN, GROUPED], ids=['gated', 'plain', 'grouped'])
def test_without_exits_the_count_is_that_of_the_products_in_the_traced_model(config):
    source, length = 5, 7
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    tokens = [jax.ShapeDtypeStruct((1, size), jnp.int32) for size in (source, length)]
    traced = products(
        jax.make_jaxpr(lambda params, *tokens: Transformer(config).apply({'params': params}, *tokens))(params, *tokens).jaxpr
    )
    if config.embedding_dim:  # the way from the embedding's width to the model's is a part of the look-up
        traced -= 2 * (source + length) * config.embedding_dim * config.emb_dim
    # the whole sequence at once attends to all T positions, a decode to those so far
    joined, layers = config.num_heads * config.head_dim, config.num_decoder_layers
    unseen = layers * 4 * joined * (length**2 - length * (length + 1) // 2)
    assert cost.exact(config, [source], [[layers] * length]).total == traced - unseen


@pytest.mark.parametrize('kv_heads', [0, 1])
def test_a_decoder_alone_reads_its_prompt_once_and_counts_positions_from_its_start(kv_heads):
    config = dataclasses.replace(TINY, num_encoder_layers=0, num_kv_heads=kv_heads, positions='rotary', head_dim=4)
    prompt, length = 5, 3
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, prompt + length - 1), jnp.int32)
    states = products(
        jax.make_jaxpr(
            lambda params, tokens: Transformer(config).apply({'params': params}, None, None, tokens, method='decode')
        )(params, tokens).jaxpr
    )
    # all at once, each position attends to all of them
    total, joined = prompt + length - 1, config.num_heads * config.head_dim
    unseen = config.num_decoder_layers * 4 * joined * (total**2 - total * (total + 1) // 2)
    counted = cost.exact(config, [prompt], [[config.num_decoder_layers] * length])
    assert counted.total - counted.head == states - unseen
    assert counted.head == length * 2 * config.emb_dim * config.vocab_size and counted.encoder_kv == 0


def test_an_encoder_that_looks_nearby_counts_the_pairs_within_reach_and_the_sums_of_blocks():
    local = dataclasses.replace(TINY, encoder_attention='local', local_radius=2)
    sums = dataclasses.replace(local, encoder_attention='transient_global', global_block_size=3)
    for length in (1, 2, 3, 4, 8):
        pairs = sum(abs(i - j) <= 2 for i in range(length) for j in range(length))
        full, near, both = (cost.exact(config, [length], [[1]]).source[0] for config in (TINY, local, sums))
        assert full - near == 2 * 4 * (length**2 - pairs) * 6
        assert both - near == 2 * (4 * length * (length // 3) * 6 + (length // 3) * 4 * 4 * 6)


def test_elbayad_is_the_published_formula():
    # d = 512, d_ff = 1024, V = 32128, N = 8, |x| = 100; tokens t = 1, 2 that leave after 2 and 5 layers
    config = TransformerConfig(
        vocab_size=32128, emb_dim=512, num_heads=6, head_dim=64, mlp_dim=1024, num_encoder_layers=8, num_decoder_layers=8
    )
    d, source = 512, 100

    def called(t):
        return 12 * d**2 + 4 * d * 1024 + 4 * t * d + 4 * source * d

    first_calls, skips, head = 5 * 4 * source * d * d, (6 + 3) * 4 * d**2, 2 * 32128 * d
    layers = 2 * called(1) + 5 * called(2)
    exits = [[2, 5]]
    assert cost.elbayad(config, [source], exits).total == layers + first_calls + skips + 2 * head
    softmax = cost.elbayad(config, [source], exits, confidence_flops_per_layer=head, predicts=True)
    assert softmax.total == layers + first_calls + skips + 7 * head
    classifier = cost.elbayad(config, [source], exits, confidence_flops_per_layer=2 * d)
    assert classifier.total == layers + first_calls + skips + 7 * 2 * d + 2 * head
    # one block at t = 1: 3,145,728 + 2,097,152 + 2,048 + 204,800
    assert called(1) == 5_449_728


def test_for_a_plain_feed_forward_and_heads_as_wide_as_the_model_both_counts_agree():
    exits, sources = random_exits(5, PLAIN), [5, 1, 2, 9, 3, 4]
    options = {'confidence_flops_per_layer': 2 * 6 * 11, 'predicts': True}
    exact = cost.exact(PLAIN, sources, exits, propagation='eager', **options)
    published = cost.elbayad(PLAIN, sources, exits, **options)
    for term in ('decoder', 'skipped_kv', 'confidence', 'head'):
        np.testing.assert_array_equal(getattr(exact, term), getattr(published, term), err_msg=term)


def test_leaving_earlier_never_costs_more_and_lazy_never_more_than_eager():
    late = random_exits(6, PLAIN)
    early = [[max(1, layer - 1) for layer in row] for row in late]
    sources = [4] * 6
    assert (cost.exact(PLAIN, sources, early).total <= cost.exact(PLAIN, sources, late).total).all()
    lazy, eager = (cost.exact(PLAIN, sources, late, propagation=name).total for name in ('lazy', 'eager'))
    assert (lazy <= eager).all() and (lazy < eager).any()


def test_a_padded_array_counts_as_the_lists_without_padding():
    rows = random_exits(7, TINY)
    padded = np.zeros((6, 9), np.int32)
    for target, row in zip(padded, rows):
        target[: len(row)] = row
    for count in (cost.exact, cost.elbayad):
        for lists, array in zip(count(TINY, [3] * 6, rows), count(TINY, [3] * 6, jnp.asarray(padded))):
            np.testing.assert_array_equal(lists, array)


def test_a_row_without_tokens_costs_its_encoder_alone():
    counted = cost.exact(TINY, [3, 3], [[], [2]])
    assert counted.total[0] == counted.source[0] + counted.encoder_kv[0]
    assert cost.exact(TINY, [3], [[]]).decoder == 0
    assert cost.elbayad(TINY, [3], [[]]).total == 0


@pytest.mark.parametrize(
    'change, complaint',
    [
        ({'source_lengths': [3]}, '1 source lengths for 2 rows'),
        ({'exit_layers': [[1, 4], [2]]}, 'exit layer 4: expected layers visited, 1 to 3'),
        ({'exit_layers': [[1, -1], [2]]}, 'exit layer -1'),
        ({'exit_layers': [[1, 0, 2], [2]]}, 'exit layer of 0 before the end'),
        ({'exit_layers': np.array([1, 2])}, 'exit_layers has 1 dimensions'),
        ({'layers_run': [[2, 1], [2]]}, 'layers_run does not fit'),
        ({'layers_run': [[1], [2]]}, 'layers_run does not fit'),
        ({'propagation': 'Lazy'}, "unknown propagation 'Lazy'; known: lazy, eager, copy"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, complaint):
    arguments = {'source_lengths': [3, 3], 'exit_layers': [[1, 3], [2]], **change}
    with pytest.raises(ValueError, match=complaint):
        cost.exact(TINY, **arguments)
