"""Operation counts: every price by hand for every family, the published formula's literals, and the model's own products."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.metrics import cost
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer, init_params
from calm_jax.types import PrefillWork, Work
from tests.metrics.products import products

T5 = TransformerConfig(vocab_size=11, emb_dim=4, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=2, num_decoder_layers=3)
BART = dataclasses.replace(T5, emb_dim=6, mlp_activations=('relu',), num_encoder_layers=1, num_decoder_layers=4)
GROUPED = dataclasses.replace(BART, num_heads=4, num_kv_heads=2)
LLAMA = dataclasses.replace(T5, num_encoder_layers=0, num_kv_heads=1, positions='rotary', head_dim=4)
OPT = dataclasses.replace(T5, num_encoder_layers=0, mlp_activations=('relu',), embedding_dim=3, tied_head=True)
LOCAL = dataclasses.replace(T5, encoder_attention='local', local_radius=2)
LONGT5 = dataclasses.replace(LOCAL, encoder_attention='transient_global', global_block_size=2)


def nothing(rows=1, tokens=3):
    """Work and PrefillWork of rows that needed nothing."""
    return (
        Work(*(np.zeros((rows, tokens), np.int32) for _ in Work._fields)),
        PrefillWork(*(np.zeros(rows, np.int32) for _ in PrefillWork._fields)),
    )


def work_of(lists, **counts):
    """Work of B lists of unlike lengths with `lists` decoder layers run by each token; counts: others, of each token."""
    work, _ = nothing(len(lists), max(map(len, lists)))
    there = np.arange(work.self_attention.shape[1]) < np.array([[len(row)] for row in lists])
    run = np.zeros_like(work.self_attention)
    run[there] = [layers for row in lists for layers in row]
    own = dict.fromkeys(('self_attention', 'cross_attention', 'feed_forward', 'keys_values'), run)
    return work._replace(**own | {name: np.where(there, count, 0) for name, count in counts.items()})


def full_prefill(config, rows=1):
    """PrefillWork of rows whose source or prompt ran every layer."""
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    cross, prompt = (0, decoder) if config.decoder_only else (decoder, 0)
    return PrefillWork(*(np.full(rows, count) for count in (encoder, encoder, cross, prompt, prompt, prompt, 0, 0, 0, 0)))


# Of 5 source tokens and the third token of a row: A = 6, but 12 in GROUPED and 8 in LLAMA; K = 6, but 4 in LLAMA.
PRICES = [
    (T5, 'work.self_attention', 'decoder', 2 * (2 * 4 * 6) + 2 * (2 * 3 * 6)),
    (T5, 'work.cross_attention', 'decoder', 2 * (2 * 4 * 6) + 2 * (2 * 5 * 6)),
    (T5, 'work.feed_forward', 'decoder', 3 * (2 * 4 * 5)),
    (T5, 'work.keys_values', 'keys_values', 2 * (2 * 4 * 6)),
    (T5, 'work.head_ids', 'head', 2 * 4),
    (T5, 'work.head_states', 'head', 0),
    (T5, 'work.decisions', 'decisions', 4),
    (T5, 'prefill.encoder_attention', 'source', 5 * 4 * (2 * 4 * 6) + 25 * 2 * (2 * 6)),
    (T5, 'prefill.encoder_feed_forward', 'source', 5 * 3 * (2 * 4 * 5)),
    (T5, 'prefill.cross_keys_values', 'encoder_kv', 5 * 2 * (2 * 4 * 6)),
    (T5, 'prefill.decisions', 'decisions', 4),
    # Both change what others cost: the layers before 2 of 5 tokens were dropped read all of them.
    (T5, 'prefill.encoder_first', 'source', 0),
    (T5, 'prefill.dropped_tokens', 'source', 0),
    (BART, 'work.feed_forward', 'decoder', 2 * (2 * 6 * 5)),
    (BART, 'prefill.encoder_feed_forward', 'source', 5 * 2 * (2 * 6 * 5)),
    (GROUPED, 'work.self_attention', 'decoder', 2 * (2 * 6 * 12) + 2 * (2 * 3 * 12)),
    (GROUPED, 'work.cross_attention', 'decoder', 2 * (2 * 6 * 12) + 2 * (2 * 5 * 12)),
    (GROUPED, 'work.keys_values', 'keys_values', 2 * (2 * 6 * 6)),
    (GROUPED, 'prefill.encoder_attention', 'source', 5 * 2 * (2 * 6 * 12 + 2 * 6 * 6) + 25 * 2 * (2 * 12)),
    (GROUPED, 'prefill.cross_keys_values', 'encoder_kv', 5 * 2 * (2 * 6 * 6)),
    # 4 prompt tokens stand before the first step, and read 1 + 2 + 3 + 4 keys
    (LLAMA, 'work.self_attention', 'decoder', 2 * (2 * 4 * 8) + 2 * (2 * 7 * 8)),
    (LLAMA, 'work.feed_forward', 'decoder', 3 * (2 * 4 * 5)),
    (LLAMA, 'work.keys_values', 'keys_values', 2 * (2 * 4 * 4)),
    (LLAMA, 'prefill.prompt_attention', 'source', 4 * 2 * (2 * 4 * 8) + 10 * 2 * (2 * 8)),
    (LLAMA, 'prefill.prompt_keys_values', 'source', 4 * 2 * (2 * 4 * 4)),
    (LLAMA, 'prefill.prompt_feed_forward', 'source', 4 * 3 * (2 * 4 * 5)),
    (LLAMA, 'prefill.prompt_last', 'source', 2 * (2 * 4 * 8) + 2 * (2 * 4 * 4) + 2 * (2 * 5 * 8) + 3 * (2 * 4 * 5)),
    (OPT, 'work.head_ids', 'head', 2 * 3),
    (OPT, 'work.head_states', 'head', 2 * 4 * 3),
    # 3 + 4 + 5 + 4 + 3 keys within reach; with sums of 2 blocks, which are projected too, 2 more for each
    (LOCAL, 'prefill.encoder_attention', 'source', 5 * 4 * (2 * 4 * 6) + 19 * 2 * (2 * 6)),
    (LONGT5, 'prefill.encoder_attention', 'source', 5 * 4 * (2 * 4 * 6) + (19 + 10) * 2 * (2 * 6) + 2 * 2 * (2 * 4 * 6)),
]


@pytest.mark.parametrize('config, count, term, price', PRICES)
def test_each_count_has_its_price_by_hand_and_goes_to_one_term(config, count, term, price):
    work, prefill = nothing(rows=3)
    kind, name = count.split('.')
    counts = getattr({'work': work, 'prefill': prefill}[kind], name)
    counts[(1, -1)[: counts.ndim]] = 1  # of the second row, and of its last token
    counted = cost.exact(config, [5, 5, 5], work, prefill)
    for name, operations in counted._asdict().items():
        assert operations.tolist() == [0, price if name == term else 0, 0], name
    assert counted.total.tolist() == [0, price, 0]


def test_every_count_stands_in_the_table_of_prices():
    counts = {f'{kind}.{name}' for kind, fields in (('work', Work), ('prefill', PrefillWork)) for name in fields._fields}
    assert {count for _, count, _, _ in PRICES} == counts


def test_after_tokens_are_dropped_layers_read_those_that_are_left():
    work, prefill = nothing(rows=1, tokens=1)
    one, two = np.ones(1, np.int32), np.full(1, 2, np.int32)
    ran = {'encoder_attention': two, 'encoder_feed_forward': two, 'cross_keys_values': one}
    prefill = prefill._replace(**ran, encoder_first=one, dropped_tokens=two)
    counted = cost.exact(T5, [5], work._replace(cross_attention=np.ones((1, 1), np.int32)), prefill)
    layers = [tokens * 4 * (2 * 4 * 6) + tokens**2 * 2 * (2 * 6) + tokens * 3 * (2 * 4 * 5) for tokens in (5, 3)]
    assert counted.source == sum(layers)
    assert counted.encoder_kv == 3 * 2 * (2 * 4 * 6)
    assert counted.decoder == 2 * (2 * 4 * 6) + 2 * (2 * 3 * 6)


def test_later_columns_read_more_keys_and_a_prompt_counts_before_them():
    work, prefill = nothing()
    one = work._replace(self_attention=np.array([[1, 1, 1]]))
    without, behind = (cost.exact(config, [5], one, prefill).decoder[0] for config in (T5, LLAMA))
    assert without == 3 * 4 * 4 * 6 + 4 * (1 + 2 + 3) * 6
    assert behind == 3 * 4 * 4 * 8 + 4 * (5 + 6 + 7) * 8


@pytest.mark.parametrize('length', [0, 1, 2, 3, 4, 8])
def test_an_encoder_that_looks_nearby_counts_the_pairs_within_reach_and_the_sums_of_blocks(length):
    pairs = sum(abs(i - j) <= 2 for i in range(length) for j in range(length))
    one = nothing()[1]._replace(encoder_attention=np.array([1]))
    full, near, both = (cost.exact(config, [length], nothing()[0], one).source[0] for config in (T5, LOCAL, LONGT5))
    assert full - near == 4 * (length**2 - pairs) * 6
    assert both - near == 4 * length * (length // 2) * 6 + (length // 2) * 4 * 4 * 6


@pytest.mark.parametrize(
    'config',
    [T5, BART, GROUPED, dataclasses.replace(GROUPED, embedding_dim=3, tied_head=True), LLAMA, OPT],
    ids=['t5', 'bart', 'grouped', 'projected', 'llama', 'opt'],
)
def test_at_full_depth_the_count_is_that_of_the_products_that_the_model_multiplies(config):
    source, length = 5, 7
    read = source - 1 if config.decoder_only else 0
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0)))
    sources, targets = (jnp.ones((1, size), jnp.int32) for size in (source, read + length))

    def forward(params, sources, targets):
        model = Transformer(config)
        if not config.decoder_only:
            return model.apply({'params': params}, sources, targets)
        states = model.apply({'params': params}, None, None, targets, method='decode')[-1]
        return model.apply({'params': params}, states[:, read:], method='unembed')

    multiplied, _ = products(forward, params, sources, targets)
    if config.embedding_dim:  # the way from the embedding's width to the model's is a part of the look-up
        looked_up = read + length if config.decoder_only else source + length
        multiplied -= 2 * looked_up * config.embedding_dim * config.emb_dim
    # the whole sequence at once attends to all its positions, a decode to those so far
    layers, total = config.num_decoder_layers, read + length
    multiplied -= layers * 4 * config.num_heads * config.head_dim * (total**2 - total * (total + 1) // 2)

    work = work_of([[layers] * length], head_states=1, head_ids=config.vocab_size)
    if config.decoder_only:
        work = work._replace(cross_attention=np.zeros_like(work.cross_attention))
    assert cost.exact(config, [source], work, full_prefill(config)).total == multiplied


def test_elbayad_is_the_published_formula():
    # d = 512, d_ff = 1024, V = 32128, N = 8, |x| = 100; tokens t = 1, 2 that leave after 2 and 5 layers
    config = TransformerConfig(
        vocab_size=32128, emb_dim=512, num_heads=6, head_dim=64, mlp_dim=1024, num_encoder_layers=8, num_decoder_layers=8
    )
    d, source, prefill = 512, 100, full_prefill(config=T5)._replace(cross_keys_values=np.array([8]))

    def called(t):
        return 12 * d**2 + 4 * d * 1024 + 4 * t * d + 4 * source * d

    def total(**counts):
        return cost.elbayad(config, [source], work_of([[2, 5]], **counts), prefill).total

    first_calls, skips, head = 5 * 4 * source * d * d, (6 + 3) * 4 * d**2, 2 * 32128 * d
    layers = 2 * called(1) + 5 * called(2)
    assert total(head_states=1, head_ids=32128) == layers + first_calls + skips + 2 * head
    softmax = total(head_states=np.array([[2, 5]]), head_ids=np.array([[2, 5]]) * 32128)
    assert softmax == layers + first_calls + skips + 7 * head
    classifier = total(head_states=1, head_ids=32128, decisions=np.array([[2, 5]]) * 2)
    assert classifier == layers + first_calls + skips + 7 * 2 * d + 2 * head
    # one block at t = 1: 3,145,728 + 2,097,152 + 2,048 + 204,800
    assert called(1) == 5_449_728


def test_elbayad_of_a_decoder_only_model_leaves_out_the_source_and_counts_its_prompt():
    work = work_of([[2, 3]], head_states=1, head_ids=11, cross_attention=0)
    counted = cost.elbayad(LLAMA, [5], work, full_prefill(LLAMA))
    assert counted.decoder == 2 * (8 * 16 + 4 * 4 * 5 + 4 * 5 * 4) + 3 * (8 * 16 + 4 * 4 * 5 + 4 * 6 * 4)
    assert counted.keys_values == 1 * 4 * 16 and counted.head == 2 * 2 * 11 * 4
    assert counted.source == counted.encoder_kv == counted.decisions == 0
    # the head is as published, of the model's width, whatever that of the embedding
    assert cost.elbayad(OPT, [5], work, full_prefill(OPT)).head == 2 * 2 * 11 * 4


def test_elbayad_of_half_a_plan_is_half_the_layers_and_not_full_depth():
    config = dataclasses.replace(BART, num_decoder_layers=2)
    head = {'head_states': 1, 'head_ids': config.vocab_size}
    full, half = work_of([[2, 2, 2]], **head), work_of([[1, 1, 1]], **head)
    prefill = full_prefill(config)
    whole = cost.elbayad(config, [5], full, prefill)
    planned = cost.elbayad(config, [5], half, prefill._replace(cross_keys_values=np.array([1])))
    assert planned.decoder == whole.decoder / 2 and planned.encoder_kv == whole.encoder_kv / 2
    assert planned.keys_values == 3 * 4 * 36 and whole.keys_values == 0
    np.testing.assert_array_equal(cost.layers(config, half), [[1.0, 1.0, 1.0]])
    # feed-forwards alone, in both layers: two thirds of what runs are gone, and no layer reads the source
    feed_forward = full._replace(self_attention=0 * full.self_attention, cross_attention=0 * full.cross_attention)
    planned = cost.elbayad(config, [5], feed_forward, prefill)
    np.testing.assert_allclose(planned.decoder, whole.decoder / 3, rtol=1e-12)
    assert planned.encoder_kv == 0


def test_elbayad_of_beams_skips_nothing_and_reads_each_source_once():
    # 3 sequences of 4 layers each, and a step past the chosen one's end
    work = work_of([[12, 12]], head_states=3, head_ids=33)
    counted = cost.elbayad(BART, [5], work, full_prefill(BART))
    one = cost.elbayad(BART, [5], work_of([[4, 4]], head_states=1, head_ids=11), full_prefill(BART))
    assert counted.decoder == 3 * one.decoder and counted.head == 3 * one.head
    assert counted.keys_values == one.keys_values == 0 and counted.encoder_kv == one.encoder_kv


def test_for_a_plain_feed_forward_and_heads_as_wide_as_the_model_both_counts_agree():
    rng = np.random.default_rng(5)
    exits = [list(rng.integers(1, 5, length)) for length in (3, 6, 1, 2)]
    work = work_of(exits, keys_values=4)  # every layer's keys and values computed, whether it ran or not
    work = work._replace(head_states=work.self_attention, head_ids=work.self_attention * 11, decisions=work.feed_forward * 2)
    prefill = full_prefill(BART, rows=4)
    exact = cost.exact(BART, [5, 1, 2, 9], work, prefill)
    published = cost.elbayad(BART, [5, 1, 2, 9], work, prefill)
    for term in ('decisions', 'head'):
        np.testing.assert_array_equal(getattr(exact, term), getattr(published, term), err_msg=term)
    # a layer's own keys and values are a part of its call there, and a term here
    np.testing.assert_array_equal(exact.decoder + exact.keys_values, published.decoder + published.keys_values)


@pytest.mark.parametrize('config, parts', [(T5, 3), (LLAMA, 2)], ids=['t5', 'llama'])
def test_layers_are_the_sub_layers_that_ran_over_those_of_a_layer(config, parts):
    work = work_of([[3, 2], [1]])
    if config.decoder_only:
        work = work._replace(cross_attention=np.zeros_like(work.cross_attention))
    assert cost.sub_layers(config) == parts
    np.testing.assert_array_equal(cost.layers(config, work), [[3.0, 2.0], [1.0, 0.0]])
    fewer = work._replace(feed_forward=work.feed_forward // 2, self_attention=jnp.asarray(work.self_attention))
    np.testing.assert_allclose(cost.layers(config, fewer), [[3 - 2 / parts, 2 - 1 / parts], [1 - 1 / parts, 0]], rtol=1e-15)
    assert cost.layers(config, fewer).dtype == np.float64


def test_a_row_without_tokens_costs_its_source_alone_and_columns_of_zeros_nothing():
    work = work_of([[], [2]], head_states=1, head_ids=11)
    prefill = full_prefill(T5, rows=2)
    counted = cost.exact(T5, [3, 3], work, prefill)
    assert counted.total[0] == counted.source[0] + counted.encoder_kv[0] > 0
    longer = Work(*(np.pad(count, ((0, 0), (0, 4))) for count in work))
    for count in (cost.exact, cost.elbayad):
        for short, long in zip(count(T5, [3, 3], work, prefill), count(T5, [3, 3], longer, prefill)):
            np.testing.assert_array_equal(short, long)
    assert cost.elbayad(T5, [3, 3], work, prefill).total[0] == 0


def test_counts_are_exact_where_they_pass_the_range_of_int32():
    work, prefill = nothing(tokens=2)
    work = work._replace(head_ids=np.full((1, 2), 2**31 - 1, np.int32))
    assert cost.exact(T5, [3], work, prefill).head == 2 * (2**31 - 1) * 8
    assert cost.exact(T5, [100_000], work, full_prefill(T5)).source == 2 * (100_000 * (192 + 120) + 4 * 10**10 * 6)


@pytest.mark.parametrize('count', [cost.exact, cost.elbayad])
@pytest.mark.parametrize(
    'config, change, complaint',
    [
        (T5, {'source_tokens': [3]}, r'source_tokens has shape \(1,\); expected \(2,\), as work.self_attention has \(2, 3\)'),
        (T5, {'source_tokens': [3, -1]}, 'source_tokens has a count of -1; expected 0 or more'),
        (T5, {'self_attention': np.zeros(3)}, 'work.self_attention has 1 dimensions; expected counts of each token'),
        (T5, {'head_ids': np.zeros((2, 4))}, r'work.head_ids has shape \(2, 4\); expected \(2, 3\)'),
        (T5, {'keys_values': np.full((2, 3), -2)}, 'work.keys_values has a count of -2; expected 0 or more'),
        (T5, {'cross_keys_values': np.zeros(3)}, r'prefill.cross_keys_values has shape \(3,\); expected \(2,\)'),
        (
            T5,
            {'encoder_attention': np.array([2, 3])},
            'prefill.encoder_attention has a count of 3; the model has 2 such layers',
        ),
        (T5, {'prompt_attention': np.array([0, 1])}, 'prefill.prompt_attention has a count of 1; the model has 0 such layers'),
        (LLAMA, {'encoder_feed_forward': np.array([1, 0])}, 'encoder_feed_forward has a count of 1; the model has 0'),
        (LLAMA, {'cross_keys_values': np.array([1, 0])}, 'cross_keys_values has a count of 1; the model has 0'),
        (LLAMA, {'prompt_keys_values': np.array([4, 0])}, 'prompt_keys_values has a count of 4; the model has 3'),
        (LLAMA, {'prompt_last': np.array([0, 4])}, 'prompt_last has a count of 4; the model has 3'),
        (LLAMA, {'cross_attention': np.ones((2, 3))}, 'work.cross_attention is not 0; a decoder-only model has none'),
    ],
)
def test_counts_that_do_not_fit_are_refused_in_one_line(count, config, change, complaint):
    work, prefill = nothing(rows=2)
    work = work._replace(**{name: value for name, value in change.items() if name in Work._fields})
    prefill = prefill._replace(**{name: value for name, value in change.items() if name in PrefillWork._fields})
    with pytest.raises(ValueError, match=complaint) as caught:
        count(config, change.get('source_tokens', [3, 3]), work, prefill)
    assert '\n' not in str(caught.value)
