"""`calm.load` and what a loaded model does: texts in, outputs with their depth and cost out."""

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calm_jax as calm
from calm_jax.checkpoints import huggingface, native
from calm_jax.data.example_ids import ExampleIds, sequence_id
from calm_jax.data.tokenizers import ByteTokenizer
from calm_jax.decoding.choice import Beam, Greedy, Sampled
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.rules import Rules
from calm_jax.depth.confidence import Measure, SoftmaxGap, StateSimilarity
from calm_jax.depth.exits import Exit
from calm_jax.depth.plans import Uniform
from calm_jax.depth.vocabulary import FixedPruning, FrequentIds
from calm_jax.model import Model
from calm_jax.models.joined import join, split
from calm_jax.models.transformer import Transformer
from calm_jax.output import Outputs
from calm_jax.pytrees import pytree
from calm_jax.stop_strings import StopStrings

FIXTURES = pathlib.Path(__file__).parent / 'fixtures' / 'parity'
TEXTS = ['a cat', 'horse', 'bb bb', 'a', 'cat cat']
EARLY = Exit(SoftmaxGap(), threshold=0.02)
DRAWS = Sampled(temperature=1.5)


@pytest.fixture(scope='module')
def model(checkpoint):
    return calm.load(checkpoint)


def tokens(outputs):
    return [output.tokens for output in outputs]


def test_a_text_gives_an_output_and_a_list_a_sequence_decoded_when_asked_for(model):
    outputs = model.generate(TEXTS[:3], batch_size=2)
    assert len(outputs) == 3 and outputs[2].tokens == list(outputs)[-1].tokens
    assert [output.text for output in outputs[:2]] == [output.text for output in itertools.islice(outputs, 2)]
    with pytest.raises(IndexError):
        outputs[3]
    assert model.generate(TEXTS[0]).tokens == outputs[0].tokens
    assert repr(model.generate(TEXTS)) == 'Outputs(5, 0 of them decoded)'


def test_a_model_is_described_in_a_line(model):
    assert repr(model) == 'Model(1 + 3 layers, 0.0219 M parameters, float32, vocabulary 259, heads exit_classifier)'


def test_an_endless_stream_is_decoded_a_window_at_a_time(model):
    read = []

    def texts():
        for i in itertools.count():
            read.append(i)
            yield f'cat {i}'

    stream = model.stream(texts(), batch_size=1, limits=Limits(max_new_tokens=2))
    assert next(stream).source_tokens == 6
    assert len(read) <= 128


@pytest.mark.parametrize('pack', ['auto', 'refill', 'none'])
def test_rows_are_streamed_as_they_end_and_say_which_text_they_are_of(model, pack):
    reports = []
    stream = model.stream(TEXTS, batch_size=2, pack=pack, watch=reports.append)
    first = next(stream)
    assert len(reports) == 1
    outputs = [first, *stream]
    assert len(reports) == -(-len(TEXTS) // 2) or pack != 'none'
    assert sum(report.sequences for report in reports) == len(TEXTS)
    assert sum(report.tokens for report in reports) == sum(len(output.tokens) for output in outputs)
    assert sum(report.tokens for report in reports) <= sum(report.places for report in reports)
    assert sum(report.needed for report in reports) <= sum(report.executed for report in reports)
    assert [each.text_index for each in outputs] != list(range(len(TEXTS)))  # shortest first
    together = model.generate(TEXTS, batch_size=2)
    assert {each.text_index: each.tokens for each in outputs} == {i: each.tokens for i, each in enumerate(together)}
    assert [each.tokens for each in model.stream(TEXTS, batch_size=2, in_order=True)] == [each.tokens for each in together]


def test_a_failure_is_remembered_and_what_came_before_it_is_kept(model):
    first = model.generate(TEXTS[0])

    def stream():
        yield first
        raise IndexError('within')

    outputs = Outputs(stream(), 5)
    assert outputs[0] is first
    with pytest.raises(IndexError, match='within'):
        list(outputs)
    for ask in (list, lambda outputs: outputs[1], lambda outputs: outputs[:2]):
        with pytest.raises(RuntimeError, match='failed after 1 outputs: IndexError') as error:
            ask(outputs)
        assert isinstance(error.value.__cause__, IndexError)
    assert outputs[0] is first and len(outputs) == 5


def test_a_stream_that_ends_early_is_no_short_sequence(model):
    outputs = Outputs(iter([model.generate(TEXTS[0])]), 2)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            list(outputs)


def test_an_output_is_the_same_wherever_its_text_stands_and_whatever_its_batch(model):
    for choice in (Greedy(), DRAWS):
        forward = list(model.generate(TEXTS, exit=EARLY, choice=choice, batch_size=5))
        backward = list(model.generate(TEXTS[::-1], exit=EARLY, choice=choice, batch_size=5))[::-1]
        alone = [model.generate(text, exit=EARLY, choice=choice) for text in TEXTS]
        assert tokens(forward) == tokens(backward) == tokens(alone)
        assert [each.exit_layers for each in forward] == [each.exit_layers for each in backward]


@pytest.mark.parametrize('name, threshold', [('t5_1_0', 0.001), ('gpt2', 0.02)])
def test_in_float64_outputs_are_the_same_whatever_the_rows_of_their_batch(name, threshold):
    """Batches of other sizes are other programs, whose float32 kernels may round otherwise."""
    with jax.enable_x64(True):
        single = loaded(name)
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), single.params)
        model = dataclasses.replace(single, config=dataclasses.replace(single.config, dtype='float64'), params=params)
        parts = {'exit': Exit(SoftmaxGap(), threshold), 'choice': DRAWS, 'limits': Limits(32, 8)}
        texts = ['the quick brown fox', 'a', 'layers', 'lazy dog', 'the']
        whole, alone = (list(model.generate(texts, batch_size=size, **parts)) for size in (8, 1))
        assert len({layer for output in whole for layer in output.exit_layers}) > 1
        assert tokens(alone) == tokens(whole)
        assert [each.exit_layers for each in alone] == [each.exit_layers for each in whole]
        assert [each.flops for each in alone] == [each.flops for each in whole]


def test_rows_cost_what_there_are_of_them_and_not_a_whole_batch(model):
    places = {}
    for count in (1, 3, 5):
        reports = []
        list(model.stream(TEXTS[:count], Decoding(rules=Rules(min_new_tokens=8)), watch=reports.append))
        (report,) = reports
        assert report.sequences == count and report.needed == count * 8 * 9
        places[count] = report.executed
    assert places == {1: 8 * 9, 3: 4 * 8 * 9, 5: 8 * 8 * 9}


def test_layers_are_the_sub_layers_that_ran_and_exit_layers_stand_beside_them(model):
    full, planned, off = (
        model.generate('a cat', **parts)
        for parts in ({}, {'plan': Uniform(2 / 3)}, {'plan': Uniform(1.0), 'exit': Exit(SoftmaxGap(), threshold=1.0)})
    )
    assert full.layers == 3 and set(full.sub_layers) == {9} and full.source_tokens == 6 and not full.truncated
    assert planned.layers == 2 and set(planned.sub_layers) == {6} and set(planned.exit_layers) == {3}
    assert planned.flops / len(planned.tokens) < full.flops / len(full.tokens)
    assert planned.flops_elbayad / len(planned.tokens) < full.flops_elbayad / len(full.tokens)
    assert off.tokens == full.tokens and off.flops == full.flops


def test_an_empty_text_is_decoded_too(model):
    assert model.generate('').source_tokens == 1
    assert list(model.generate([])) == []


def test_the_checkpoints_defaults_hold_until_something_else_is_asked_for(checkpoint):
    loaded = native.load(checkpoint)
    generation = {'limits': {'max_new_tokens': 5}, 'choice': {'class': 'beam', 'size': 2}, 'rules': {'no_repeat_ngram_size': 1}}
    model = Model(*loaded[:4], generation)
    assert model.decoding == Decoding(Limits(512, 5), choice=Beam(2), rules=Rules(no_repeat_ngram_size=1))
    by_default = model.generate('a cat')
    assert by_default.tokens == model.generate('a cat', model.decoding).tokens
    assert len(by_default.tokens) == 5 and len(set(by_default.tokens)) == 5
    # An exit ends the search, and the rules stay; a whole decoding takes the limits that it leaves open, and nothing else.
    early = model.generate('a cat', exit=Exit(StateSimilarity(), 0.5))
    assert len(set(early.tokens)) == 5 and max(early.exit_layers) <= 3 and min(early.exit_layers) < 3
    whole = model.generate('a cat', Decoding())
    assert len(whole.tokens) == 5 and len(set(whole.tokens)) < 5


def test_draws_are_of_the_text_and_of_how_often_it_was_asked_for(model):
    first, other, second = model.generate(['a cat', 'horse', 'a cat'], choice=DRAWS)
    assert first.tokens != second.tokens
    assert tokens(model.generate(['horse', 'a cat', 'a cat'], choice=DRAWS)) == [other.tokens, first.tokens, second.tokens]
    assert [each.tokens for each in model.stream(['a cat', 'a cat'], choice=DRAWS, skip={0})] == [second.tokens]
    again = dataclasses.replace(model.decoding, choice=DRAWS, seed=1)
    assert model.generate('a cat', again).tokens != first.tokens


def test_ids_are_whole_numbers_of_31_bits_and_differ_by_text_copy_and_sequence():
    ids = ExampleIds()
    texts = [f'text {i}' for i in range(500)] * 3 + ['', '', 'é', '€' * 1000]
    made = [ids(text) for text in texts]
    made += [sequence_id(each, k) for each in made[:500] for k in (1, 2)]
    assert len(set(made)) == len(made) and min(made) >= 0 and max(made) < 2**31
    assert ExampleIds()('text 1') == made[1] == sequence_id(made[1], 0)


def test_several_sequences_of_a_text_stand_side_by_side_and_the_first_is_the_one_alone(model):
    outputs = model.generate(['a cat', 'horse'], choice=DRAWS, num_return_sequences=3, batch_size=4)
    assert len(outputs) == 6 and [each.sequence for each in outputs] == [0, 1, 2] * 2
    assert len({tuple(each) for each in tokens(outputs)}) == 6
    assert tokens([outputs[0], outputs[3]]) == tokens(model.generate(['a cat', 'horse'], choice=DRAWS))
    assert tokens(model.generate('horse', choice=DRAWS, num_return_sequences=3)) == tokens(outputs[3:])


def test_rows_have_their_own_settings(model):
    exit = Exit(StateSimilarity())
    mixed = model.generate(TEXTS, exit=exit, rows=Rows(threshold=[0.1, 1.0, 0.9, 0.5, 1.0]), batch_size=2)
    for text, threshold, output in zip(TEXTS, (0.1, 1.0, 0.9, 0.5, 1.0), mixed):
        alone = model.generate(text, exit=Exit(StateSimilarity(), threshold))
        assert (output.tokens, output.exit_layers) == (alone.tokens, alone.exit_layers)
    shallow = model.generate(TEXTS[:2], rows=Rows(depth=[1, 0], limit=[3, 8]))
    assert set(shallow[0].exit_layers) == {1} and set(shallow[1].exit_layers) == {3} and len(shallow[0].tokens) <= 3
    with pytest.raises(ValueError, match='rows.depth has 2 numbers, and there are more texts'):
        list(model.stream(TEXTS, rows=Rows(depth=[1, 0])))
    drawn = model.generate(
        TEXTS[:2], exit=exit, choice=DRAWS, rows=Rows(threshold=[0.1, 1.0]), num_return_sequences=2, batch_size=1
    )
    assert {min(each.exit_layers) for each in drawn[:2]} != {3} and {min(each.exit_layers) for each in drawn[2:]} == {3}


def test_log_probabilities_are_those_of_the_models_own_logits(model):
    for choice in (Greedy(), Sampled(temperature=3.0, top_k=5)):
        output = model.generate('a cat', choice=choice, log_probabilities=True)
        assert output.tokens == model.generate('a cat', choice=choice).tokens
        source = [*model.encode('a cat'), model.config.eos_id]
        shifted = [model.config.decoder_start_id, *output.tokens[:-1]]
        logits = jax.jit(Transformer(model.config).apply)({'params': model.params}, jnp.array([source]), jnp.array([shifted]))
        expected = jax.nn.log_softmax(logits[0])[jnp.arange(len(output.tokens)), jnp.array(output.tokens)]
        np.testing.assert_allclose(output.log_probabilities, expected, atol=1e-4)
    assert model.generate('a cat').log_probabilities is None


@pytest.mark.parametrize('choice', [Greedy(), DRAWS])
def test_text_comes_as_it_is_said_and_together_it_is_the_output(model, choice):
    for text in TEXTS:
        parts = list(model.stream_tokens(text, exit=EARLY, choice=choice))
        assert ''.join(parts) == model.generate(text, exit=EARLY, choice=choice).text
        assert all(parts)
    verified = model.stream_tokens(TEXTS[0], exit=Exit(SoftmaxGap(), 0.02, verify=3), choice=choice)
    assert ''.join(verified) == model.generate(TEXTS[0], choice=choice).text


def test_a_decoder_only_model_streams_its_answer():
    model = loaded('gpt2')
    decoding = Decoding(Limits(max_new_tokens=12))
    assert ''.join(model.stream_tokens('the quick', decoding)) == model.generate('the quick', decoding).text


@pytest.mark.parametrize(
    'mistake, kind, message',
    [
        ({'exit': SoftmaxGap()}, TypeError, 'expected an exit rule, such as Exit'),
        ({'exit': Exit(SoftmaxGap(), 0.5, min_exit_layer=4)}, ValueError, 'min_exit_layer is 4; the decoder has 3 layers'),
        ({'exit': Exit(SoftmaxGap(FixedPruning(keep=300)), 0.5)}, ValueError, '300'),
        ({'exit': Exit(SoftmaxGap(FrequentIds(np.arange(400), 300)), 0.5)}, ValueError, 'the vocabulary has 259 ids'),
        ({'exit': Exit(SoftmaxGap(FrequentIds(np.arange(9), 10)), 0.5)}, ValueError, 'the list has 9 frequent ids'),
        ({'exit': Exit(SoftmaxGap(FrequentIds(np.array([4, 259]), 1)), 0.5)}, ValueError, 'the frequent ids hold 259'),
        ({'exit': Exit(SoftmaxGap(FrequentIds(np.array([4, 4]), 1)), 0.5)}, ValueError, 'no list of distinct whole numbers'),
        ({'exit': Exit(SoftmaxGap(FrequentIds(np.ones((2, 2)), 1)), 0.5)}, ValueError, 'no list of distinct whole numbers'),
        ({'exitt': EARLY}, TypeError, "no option 'exitt'; did you mean exit?"),
        ({'treshold': 0.5}, TypeError, "no option 'treshold'; did you mean threshold?"),
        ({'threshold': 0.5}, TypeError, r'it is of exit=Exit\(threshold=…\)'),
        ({'max_new_tokens': 5}, TypeError, r'it is of limits=Limits\(max_new_tokens=…\)'),
        ({'decoding': 5}, TypeError, 'decoding is 5; expected a Decoding'),
        ({'decoding': Decoding(), 'exit': EARLY}, ValueError, 'a decoding and exit'),
        ({'batch_size': 0}, ValueError, 'batch_size is 0'),
        ({'batch_size': 2.5}, TypeError, 'batch_size is 2.5; expected a whole number'),
        ({'num_return_sequences': 2}, ValueError, 'nothing is drawn'),
        ({'choice': Beam(2), 'exit': EARLY}, ValueError, 'beam search with an exit'),
        ({'choice': Beam(2), 'log_probabilities': True}, ValueError, 'log_probabilities with beam search'),
        ({'exit': Exit(SoftmaxGap(FixedPruning(keep=9)), 0.5), 'log_probabilities': True}, ValueError, 'pruned'),
        ({'rows': [0.5]}, TypeError, r'expected Rows\(threshold'),
        ({'rows': Rows(threshold=[0.5])}, ValueError, 'rows.threshold without an exit'),
        ({'rows': Rows(depth=[1, 2])}, ValueError, 'rows.depth has 2 numbers for 1 texts'),
        ({'rows': Rows(depth=[4])}, ValueError, 'rows.depth holds 4; expected numbers from 0 to 3'),
        ({'rows': Rows(limit=[9])}, ValueError, 'rows.limit holds 9; expected numbers from 1 to 8'),
        ({'exit': EARLY, 'rows': Rows(threshold=[float('nan')])}, ValueError, 'rows.threshold holds nan'),
        ({'choice': Beam(2), 'rows': Rows(limit=[3])}, ValueError, 'beam search takes no rows'),
        ({'rows': Rows(depth=['a'])}, TypeError, 'expected a list of numbers'),
        ({'certificate': 'no/such/file'}, FileNotFoundError, 'no/such/file'),
        ({'certificate': 'c.json', 'exit': EARLY}, ValueError, 'certificate and exit'),
        ({'certificate': 'c.json', 'decoding': Decoding()}, ValueError, 'certificate and decoding'),
        ({'certificate': 'c.json', 'rows': Rows(depth=[1])}, ValueError, 'certificate and rows'),
    ],
)
def test_a_mistake_is_one_line_at_the_call_and_not_at_the_first_output(model, mistake, kind, message):
    for call in (lambda: model.generate(['a cat'], **mistake), lambda: model.stream_tokens('a cat', **mistake)):
        with pytest.raises(kind, match=message) as error:
            call()
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    'texts, kind, message',
    [
        ([3], TypeError, r'texts\[0\] is 3; expected a text'),
        (['a', 'b \ud83d'], ValueError, r'texts\[1\] is not text'),
        ([{'en': 'a'}], TypeError, 'records need a certificate'),
        (iter(['a']), TypeError, 'stream takes any iterable'),
        (b'a', TypeError, r'texts\[0\] is 97'),
    ],
)
def test_what_is_no_text_is_named_before_anything_is_decoded(model, texts, kind, message):
    with pytest.raises(kind, match=message):
        model.generate(texts)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'choice': Beam(2)}, 'no token is certain before the end'),
        ({'choice': DRAWS, 'num_return_sequences': 2}, 'num_return_sequences belongs to generate'),
        ({'log_probabilities': True}, 'log_probabilities belongs to generate'),
    ],
)
def test_what_has_no_stream_of_tokens_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.stream_tokens('a cat', **options)


def test_saving_and_loading_changes_nothing(model, tmp_path):
    model.save(tmp_path / 'copy')
    again = calm.load(tmp_path / 'copy')
    assert again.config == model.config and again.generation == model.generation
    assert again.fingerprints == model.fingerprints
    assert again.generate('a cat').tokens == model.generate('a cat').tokens
    np.testing.assert_array_equal(again.heads['exit_classifier']['kernel'], model.heads['exit_classifier']['kernel'])


def test_half_precision_on_disk_is_single_precision_on_a_cpu(model, tmp_path):
    model.save(tmp_path / 'half', dtype='float16')
    again = calm.load(tmp_path / 'half')
    assert again.config.dtype == 'float32' and again.params['token_embedder']['embedding'].dtype == np.float32


def test_bfloat16_decodes(checkpoint):
    output = calm.load(checkpoint, dtype='bfloat16').generate('a cat', exit=EARLY)
    assert output.tokens and max(output.exit_layers) <= 3


@pytest.mark.parametrize('name', ['bart', 'gated_gelu'])
def test_what_is_derived_from_arrays_follows_them(name):
    """A tied head's kernel, the rows and columns of a head that measures read, and fingerprints are made again when arrays are
    replaced."""
    model, limits = loaded(name), Limits(max_new_tokens=4)
    pruned = Exit(SoftmaxGap(FixedPruning(keep=5, pruning_layer=1)), 0.9)
    listed = Exit(SoftmaxGap(FrequentIds(np.arange(2, 40, dtype=np.int32), 30)), 0.4)
    assert model.config.tied_head == (name == 'bart')

    def results(model):
        return tokens([model.generate('the fox', limits=limits), model.generate('the fox', exit=pruned, limits=limits)])

    def sure(model):
        return np.array(model.generate('the fox', exit=listed, limits=limits).confidence)

    before, fingerprints, sure_before = results(model), model.fingerprints, sure(model)
    model.params['token_embedder']['embedding'] = jnp.flip(model.params['token_embedder']['embedding'], axis=0)
    if not model.config.tied_head:
        head = model.params['decoder']['logits_dense']
        head['kernel'] = jnp.flip(head['kernel'], axis=1)
    params = join(split(model.params, model.config), model.config)
    anew = Model(model.config, params, model.tokenizer, model.heads, model.generation)
    assert results(model) == results(anew) != before
    np.testing.assert_allclose(sure(model), sure(anew), atol=1e-4)
    assert np.abs(sure(model) - sure_before).max() > 1e-3
    assert model.fingerprints == anew.fingerprints != fingerprints


def test_the_columns_of_a_list_are_made_once_for_each_list_and_no_other_part_of_the_head(model):
    ids = np.arange(3, 200, dtype=np.int32)

    def columns(count, ids=ids):
        return model.head_table(Decoding(exit=Exit(SoftmaxGap(FrequentIds(ids, count)), 0.5)))

    kernel = np.asarray(model.params['decoder']['logits_dense']['kernel'])
    np.testing.assert_array_equal(columns(9).weight, kernel[:, 3:12])
    assert columns(9) is columns(9, ids.copy()) and columns(5).weight.shape == (16, 5) and columns(9).bias is None
    np.testing.assert_array_equal(columns(9, ids[::-1]).weight, kernel[:, 199:190:-1])
    assert model.head_table(Decoding(exit=Exit(SoftmaxGap(), 0.5))) is None


def test_a_text_that_holds_the_token_that_pads_is_read_whole():
    torch = pytest.importorskip('torch', reason='needs torch')
    transformers = pytest.importorskip('transformers')
    model = loaded('bart')
    text = 'the <pad> fox'
    ids = [*model.encode(text), model.config.eos_id]
    assert model.config.pad_id in ids
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(FIXTURES / 'bart').eval()
    with torch.no_grad():
        said = reference.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=8,
            num_beams=1,
            do_sample=False,
        )[0].tolist()
    rules = model.decoding.rules
    output = model.generate(text, Decoding(Limits(max_new_tokens=8), rules=rules))
    assert output.source_tokens == len(ids)
    assert output.tokens == said[1:]


def loaded(name):
    """The model of a published fixture."""
    checkpoint = huggingface.read(FIXTURES / name, 'float32')
    params = join(jax.tree.map(jnp.asarray, checkpoint.params), checkpoint.config)
    return Model(checkpoint.config, params, *checkpoint[2:])


def test_a_packed_decoding_is_timed_against_full_depth_which_is_never_packed(model):
    speed = calm.measure_speed(model, Decoding(exit=EARLY), TEXTS * 3, batch_size=4, rounds=1, pack='1:2')
    assert speed['pack'] == '1:2' and speed['speed_up'] > 0


def test_a_text_ends_with_the_token_that_completes_a_stop_string(model):
    plain = model.generate(TEXTS, batch_size=2)
    stop = ''.join(plain[0].pieces[1:3])
    limits = Limits(stop_strings=('nothing of that kind', stop))
    for pack in ('none', 'refill'):
        for before, after in zip(plain, model.generate(TEXTS, limits=limits, batch_size=2, pack=pack)):
            ends = [count for count in range(1, len(before.tokens) + 1) if stop in ''.join(before.pieces[:count])]
            length = min(ends, default=len(before.tokens))
            assert after.tokens == before.tokens[:length] and after.exit_layers == before.exit_layers[:length]
            assert after.flops == before.flops if length == len(before.tokens) else after.flops < before.flops
    assert len(model.generate(TEXTS[0], limits=limits).tokens) < len(plain[0].tokens)
    parts = list(model.stream_tokens(TEXTS[0], limits=limits))
    assert ''.join(parts) == model.generate(TEXTS[0], limits=limits).text
    # Whatever of a round comes after it is left out.
    verified = Exit(SoftmaxGap(), 0.02, verify=3)
    for pack in ('none', 'refill'):
        assert tokens(model.generate(TEXTS, limits=limits, batch_size=2, pack=pack, exit=verified)) == tokens(
            model.generate(TEXTS, limits=limits, batch_size=2)
        )
    with pytest.raises(ValueError, match='stop_strings with beam search'):
        model.generate(TEXTS, Decoding(limits=limits, choice=Beam(2)))


@pytest.mark.parametrize(
    'observed, message',
    [
        (lambda hidden: None, 'None; expected .memory, confidence, token or None.'),
        (lambda hidden: (None, None, None), 'None as confidence; expected float32 .1., one for each row'),
        (lambda hidden: (None, hidden, None), 'float32 .1, 16. as confidence; expected float32 .1., one for each row'),
        (lambda hidden: (None, hidden[:, 0] > 0, None), 'bool .1. as confidence; expected float32 .1., one for each row'),
        (lambda hidden: (None, hidden[:, 0], 3), 'int as token; expected int32 .1., or None'),
        (lambda hidden: ((hidden,), hidden[:, 0], None), '.float32 .1, 16.. as memory; expected what init makes, None, .*'),
    ],
)
def test_what_a_measure_of_ones_own_may_not_give_is_one_line_with_its_name(model, observed, message):
    @pytree
    class Wrong(Measure):
        def observe(self, memory, evidence):
            return observed(evidence.hidden)

    with pytest.raises(ValueError, match=f'^Wrong.observe gave {message}(\n|$)'):  # JAX adds a note
        model.generate('a cat', exit=Exit(Wrong(), 0.5))


def test_a_stop_string_frees_the_place_of_the_row_that_has_said_it(model):
    plain, reports = model.generate(TEXTS, limits=Limits(max_new_tokens=48)), []
    stop = ''.join(plain[0].pieces[1:3])

    def places(**limits):
        outputs = model.stream(TEXTS, Decoding(Limits(max_new_tokens=48, **limits)), watch=reports.append, batch_size=2)
        count = len(list(outputs))
        made, reports[:] = [sum(column) for column in zip(*((each.places, each.tokens) for each in reports))], []
        return count, made

    (count, (free, _)), (stopped, (fewer, said)) = places(), places(stop_strings=(stop,))
    assert count == stopped == len(TEXTS) and fewer < free and said <= fewer


def test_whole_lengths_count_the_prompt_or_the_start_token(model):
    assert model.resolve(Decoding(limits=Limits(max_length=5))).limits == Limits(16, 4, 5)
    assert max(map(len, tokens(model.generate(TEXTS, limits=Limits(max_length=5), batch_size=2)))) == 4
    prompted = Model(*huggingface.read(FIXTURES / 'gpt2')[:4], {'limits': {'max_length': 50}})
    assert prompted.decoding.limits == prompted.resolve(prompted.decoding).limits == Limits(127, 49, 50)
    assert prompted.resolve(Decoding(limits=Limits(max_new_tokens=9))).limits == Limits(119, 9)
    outputs = prompted.generate(['a prompt', 'a much longer prompt of a few words'], batch_size=2)
    assert all(each.source_tokens + len(each.tokens) == 50 for each in outputs)


def test_a_stop_string_is_text_or_a_special_token_and_no_name_of_a_byte():
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode('café')
    assert StopStrings(tokenizer, ['<']).end(tokens) is None
    assert StopStrings(tokenizer, ['<', 'é']).end(tokens) == len(tokens) == 5
    assert StopStrings(tokenizer, ['é</s>']).end([*tokens, tokenizer.eos_id]) == 6
    stops = StopStrings(tokenizer, ['cat', 't s'])
    text = tokenizer.encode('a cat sat')
    assert stops.end(text) == len(tokenizer.encode('a cat')) and stops.end(text, read=5) == len(tokenizer.encode('a cat s'))
    ended = [stops.ended(row, text[:count]) for row, counts in ((0, (3, 6)), (1, (2, 4, 4))) for count in counts]
    assert ended == [False, True, False, False, False]  # of each row by itself, what has come since it was asked
