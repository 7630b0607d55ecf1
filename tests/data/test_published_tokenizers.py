"""Published tokenizers: ids of a text and text of ids are those of transformers, read there and written again."""

import json
import os
import random

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from calm_jax.data.batching import tokenize
from calm_jax.data.jsonl import Template
from calm_jax.data.tokenizers import load_tokenizer, read_published
from calm_jax.data.tokenizers.pipelines import BYTES
from calm_jax.models.families.attributes import pad_id

SENTENCES = [
    f'{who} {what} {where}.'
    for who in ('A man', 'Two women', 'The dog', 'Une fille', 'Ein Mädchen')
    for what in ('is sleeping', 'walks', 'mange une pomme', 'läuft', 'is reading a book')
    for where in ('outside', 'in the green room', 'près de la rue', 'im Freien')
]
TEXTS = [
    'A man is sleeping outside.',
    '',
    ' ',
    ' \n ',
    '  two  spaces  ',
    'line\nbreak\ttab\r\n',
    'Größe, élève; 日本語 🙂 e\u0301',
    'ﬁ ½\u00a0nbsp\u200b \u3000x',
    '<s>[INST] name [/INST]',
    'red</s><s>blue',
    'a </s> <s> b',
    '<pad> <unk> <mask>a <mask> b',
    '<|endoftext|>a <|endoftext|> b',
    '{quick} a < b',
    'the <sep> man<sep>',
    'a<extra_id_0>b <extra_id_1> c',
    "I 'm . he 's , do n't ?",
]
SPECIAL = {'lstrip': False, 'rstrip': False, 'single_word': False, 'normalized': False, 'special': True}
PLAIN = {**SPECIAL, 'normalized': True, 'special': False}


def pieces(kind, name=None, **settings):
    def write(folder):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_prefix=str(folder / 'made'),
            vocab_size=300 if kind == 'bpe' else 50,
            model_type=kind,
            byte_fallback=kind == 'bpe',
            minloglevel=2,
            **settings,
        )
        (folder / 'made.vocab').unlink()
        (folder / 'made.model').rename(folder / (name or ('tokenizer.model' if kind == 'bpe' else 'spiece.model')))

    return write


def pairs(*special, tokenizer_json=None):
    """vocab.json and merges.txt, the special tokens first or last; tokenizer_json: written instead, with this start."""

    def write(folder):
        names = [*special, *BYTES, 'he', 'Ġm', 'Ġman', 'an', 'in', 'ĠĠ', 'âĤ']
        merges = ['h e', 'a n', 'i n', 'Ġ m', 'Ġm an', 'Ġ Ġ', 'â Ĥ']
        vocabulary = {name: number for number, name in enumerate(names)}
        if tokenizer_json is None:
            (folder / 'vocab.json').write_text(json.dumps(vocabulary))
            (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n')
            return
        made = Tokenizer(models.BPE(vocabulary, [tuple(merge.split()) for merge in merges], ignore_merges=True))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        made.add_special_tokens(list(special))
        template = processors.TemplateProcessing(
            single=[tokenizer_json, '$A'], special_tokens=[(tokenizer_json, special.index(tokenizer_json))]
        )
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
        made.save(str(folder / 'tokenizer.json'))

    return write


FAIRSEQ = 'sentencepiece.bpe.model'
T5_ENDS = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
BART = ('<s>', '<pad>', '</s>', '<unk>', '<mask>')
OPT = ('<s>', '<pad>', '</s>', '<unk>')
LLAMA_3 = ('<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>')
CLASS = 'tokenizer_class'
KINDS = {  # model type, the vocabulary, tokenizer_config.json, other files
    't5': ('t5', pieces('unigram', **T5_ENDS), {'extra_ids': 4}, {}),
    't5 100 sentinels': ('t5', pieces('unigram', **T5_ENDS), None, {}),
    't5 added': (
        't5',
        pieces('unigram', **T5_ENDS),
        {
            CLASS: 'T5Tokenizer',
            'extra_ids': 2,
            'additional_special_tokens': ['<extra_id_0>', '<extra_id_1>', '<sep>'],
            'clean_up_tokenization_spaces': True,
            'added_tokens_decoder': {'52': {'content': '{', **PLAIN}, '53': {'content': '<sep>', **SPECIAL}},
        },
        {},
    ),
    't5 added in older files': (
        'mt5',
        pieces('unigram', **T5_ENDS),
        {CLASS: 'T5Tokenizer', 'extra_ids': 2},
        {'added_tokens.json': {'{': 52, '<sep>': 53}, 'special_tokens_map.json': {'sep_token': '<sep>'}},
    ),
    'byt5': ('t5', None, {CLASS: 'ByT5Tokenizer'}, {}),
    'byt5 no sentinels': ('t5', None, {CLASS: 'ByT5Tokenizer', 'extra_ids': 0}, {}),
    'codet5': (
        't5',
        pairs(*BART),
        {CLASS: 'RobertaTokenizer', 'additional_special_tokens': ['<extra_id_0>', '<extra_id_1>']},
        {},
    ),
    'bart': ('bart', pairs(*BART), None, {}),
    'bart prefix': ('bart', pairs(*BART), {CLASS: 'BartTokenizer', 'add_prefix_space': True}, {}),
    'mbart': (
        'mbart',
        pieces(
            'unigram', FAIRSEQ, normalization_rule_name='identity'
        ),  # else transformers 5 leaves the model's normalisation out
        {CLASS: 'MBartTokenizer'},
        {},
    ),
    'mbart-50': ('mbart', pieces('unigram', FAIRSEQ), {CLASS: 'MBart50Tokenizer', 'src_lang': 'de_DE'}, {}),
    'pegasus': ('pegasus', pieces('unigram', **T5_ENDS), {CLASS: 'PegasusTokenizer'}, {}),
    'gpt2': ('gpt2', pairs('<|endoftext|>'), None, {}),
    'gpt2 start': ('gpt2', pairs('<|endoftext|>'), {CLASS: 'GPT2Tokenizer', 'add_bos_token': True}, {}),
    'gpt2 no padding': ('gpt2', pairs('<|endoftext|>'), {CLASS: 'GPT2TokenizerFast', 'pad_token': None}, {}),
    'opt': (
        'opt',
        pairs(*OPT),
        {CLASS: 'GPT2Tokenizer', **dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), '</s>'), 'add_bos_token': True},
        {},
    ),
    'opt no start': (
        'opt',
        pairs(*OPT),
        {CLASS: 'GPT2Tokenizer', 'bos_token': '</s>', 'eos_token': '</s>', 'unk_token': '</s>', 'add_bos_token': False},
        {'special_tokens_map.json': {'pad_token': {'content': '<pad>', **SPECIAL}}},
    ),
    'llama': ('llama', pieces('bpe'), {CLASS: 'LlamaTokenizer', 'add_bos_token': True, 'legacy': False}, {}),
    'llama legacy': ('llama', pieces('bpe'), {CLASS: 'LlamaTokenizer', 'add_bos_token': True, 'legacy': True}, {}),
    'llama end': ('llama', pieces('bpe'), {CLASS: 'LlamaTokenizer', 'add_bos_token': True, 'add_eos_token': True}, {}),
    'llama no prefix': (
        'llama',
        pieces('bpe'),
        {CLASS: 'LlamaTokenizer', 'add_bos_token': True, 'add_prefix_space': False},
        {},
    ),
    'llama pad': (
        'llama',
        pieces('bpe'),
        {CLASS: 'LlamaTokenizer', 'add_bos_token': False, 'pad_token': '<pad>'},
        {'added_tokens.json': {'<pad>': 300}},
    ),
    'llama 3': (
        'llama',
        pairs(*LLAMA_3, tokenizer_json=LLAMA_3[0]),
        {CLASS: 'PreTrainedTokenizerFast', 'bos_token': LLAMA_3[0], 'eos_token': LLAMA_3[2]},
        {},
    ),
}
CLASSES = {'t5': 'T5Tokenizer', 'mt5': 'T5Tokenizer', 'bart': 'BartTokenizer', 'gpt2': 'GPT2Tokenizer', 'opt': 'GPT2Tokenizer'}


def write(folder, vocabulary, settings, others):
    folder.mkdir()
    if vocabulary is not None:
        vocabulary(folder)
    for name, content in {'tokenizer_config.json': settings, **others}.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope='module', params=KINDS)
def published(request, tmp_path_factory):
    """A tokenizer of ours, transformers' own of the same folder, and one that transformers reads of what ours writes."""
    os.environ['TRANSFORMERS_VERBOSITY'] = 'error'
    transformers = pytest.importorskip('transformers')
    root = tmp_path_factory.mktemp('published')
    model, *parts = KINDS[request.param]
    folder, config = write(root / 'model', *parts), json.dumps({'model_type': model})
    (folder / 'config.json').write_text(config)
    ours = read_published(folder, CLASSES.get(model, 'LlamaTokenizer'))
    (root / 'written').mkdir()
    ours.publish(root / 'written')
    (root / 'written' / 'config.json').write_text(config)
    theirs = [transformers.AutoTokenizer.from_pretrained(each) for each in (folder, root / 'written')]
    return ours, *theirs, root / 'written'


def test_ids_of_a_text_are_those_of_transformers_and_so_are_those_of_what_is_written(published):
    ours, reference, again, _ = published
    # What encodes its source puts an end there itself, unless a language stands behind it.
    end = [ours.eos_id] if ours.settings.kind.encodes and not ours.end_ids else []
    for text in TEXTS:
        assert [*ours.encode(text), *end] == reference(text).input_ids == again(text).input_ids, text
        bare = reference(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special=False) == bare, text


def test_texts_in_a_language_have_the_ids_that_transformers_gives_them_there(published):
    ours, reference, again, _ = published
    own = ours.settings.language
    assert bool(ours.languages) == bool(own) == ours.settings.class_name.startswith('MBart')
    end = [] if ours.end_ids else [ours.eos_id]
    for code in ('ro_RO', 'fr_XX', own) if own else ():
        tokenizer = ours.languages[code]
        reference.src_lang = again.src_lang = code
        for text in TEXTS:
            assert [*tokenizer.encode(text), *end] == reference(text).input_ids == again(text).input_ids, (code, text)
        assert tokenizer.encode(TEXTS[0], add_special=False) == ours.encode(TEXTS[0], add_special=False)
    if own:
        reference.src_lang = again.src_lang = own


def test_text_of_ids_is_that_of_transformers(published):
    ours, reference, again, _ = published
    draw = random.Random(0)
    some = [[draw.randrange(ours.vocab_size) for _ in range(draw.randrange(9))] for _ in range(60)]
    sentinels = {number for name, number in reference.get_vocab().items() if 'extra_id' in name}
    for ids in [*map(ours.encode, TEXTS), *some]:
        ids = [each for each in ids if each not in sentinels]
        text = reference.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == text == again.decode(ids, skip_special_tokens=True), ids


def test_special_tokens_have_the_names_that_transformers_gives_them(published):
    ours, reference, again, folder = published
    for role in ('bos_token', 'eos_token', 'pad_token'):
        assert getattr(again, role) == getattr(reference, role)
    assert ours.eos_id == reference.eos_token_id and ours.eos_token == reference.eos_token
    assert ours.pad_id in (reference.pad_token_id, -1)
    loaded = load_tokenizer(folder)
    assert loaded.fingerprint() == ours.fingerprint() and loaded.start_ids == ours.start_ids


def test_sentinels_are_a_part_of_the_text(tmp_path):
    tokenizer = read_published(write(tmp_path / 'model', *KINDS['t5'][1:]), 'T5Tokenizer')
    ids = tokenizer.encode('A man <extra_id_0> outside<extra_id_3>.')
    assert [each for each in ids if each >= 50] == [53, 50]
    assert tokenizer.decode(ids) == 'A man<extra_id_0> outside<extra_id_3> .'
    assert tokenizer.decode([0, *ids, 1]) == tokenizer.decode(ids)


def test_settings_that_null_and_the_class_decide(tmp_path):
    """What nothing names is the class's own; null is none; a class's own that the vocabulary lacks is none."""
    folder = write(tmp_path / 'llama', *KINDS['llama'][1:])
    (folder / 'tokenizer_config.json').unlink()
    llama = load_tokenizer(folder)
    assert llama.start_ids == (1,) and (llama.eos_id, llama.pad_id) == (2, -1)
    opt = read_published(write(tmp_path / 'opt', pairs(*OPT), None, {}), 'GPT2Tokenizer')
    assert (opt.start_ids, opt.eos_id, opt.pad_id) == ((), -1, -1)
    named = {'pad_token': None, 'eos_token': None}
    t5 = read_published(write(tmp_path / 't5', KINDS['t5'][1], {**named, 'extra_ids': 0}, {}), 'T5Tokenizer')
    assert (t5.eos_id, t5.pad_id) == (-1, -1)
    assert t5.decode(t5.encode('A man')) == 'A man'


def test_a_decoder_reads_the_end_that_its_tokenizer_puts_behind_a_text(tmp_path):
    folder = write(tmp_path / 'bart', *KINDS['bart'][1:])
    assert read_published(folder, 'BartTokenizer').encode('a')[-1] != 2
    made = Tokenizer(models.BPE({'<s>': 0, '</s>': 1, 'a': 2}, []))
    made.post_processor = processors.TemplateProcessing(single='<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 1)])
    folder = write(tmp_path / 'json', None, {'eos_token': '</s>'}, {})
    made.save(str(folder / 'tokenizer.json'))
    assert read_published(folder, encodes=True).encode('a') == [0, 2]
    alone = read_published(folder, encodes=False)
    assert alone.encode('a') == [0, 2, 1] and alone.start_ids == (0,)
    alone.save(tmp_path / 'saved')
    assert load_tokenizer(tmp_path / 'saved').encode('a') == [0, 2, 1]


@pytest.mark.parametrize(
    'settings, others, message',
    [
        (
            {'added_tokens_decoder': {'95': {'content': '{'}}},
            {},
            r"added token '\{' is said to be 95, and comes to stand at 50",
        ),
        ({'added_tokens_decoder': {'x': {}}}, {}, 'the added tokens are damaged'),
        ({'extra_ids': -1}, {}, '"extra_ids" is -1; expected a whole number'),
        ({'tokenizer_class': 'BigBirdTokenizer'}, {}, 'BigBirdTokenizer; save the tokenizer as tokenizer.json'),
        ({}, {'tokenizer.json': {'a': 1}}, 'tokenizer.json: '),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused_in_one_line(tmp_path, settings, others, message):
    settings = {'extra_ids': 0, **settings}
    folder = write(tmp_path / 'model', KINDS['t5'][1], settings, others)
    with pytest.raises(ValueError, match=message) as error:
        read_published(folder, 'T5Tokenizer')
    assert '\n' not in str(error.value) and str(folder) in str(error.value)


def test_a_folder_without_a_vocabulary_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        FileNotFoundError, match='looked for tokenizer.json, or spiece.model, or .*, or vocab.json with merges.txt'
    ):
        read_published(tmp_path, 'T5Tokenizer')


def test_a_target_goes_on_where_its_prompt_ends(tmp_path):
    folder = write(tmp_path / 'model', *KINDS['llama'][1:])
    tokenizer, record = load_tokenizer(folder), [{'a': 'A man', 'b': 'walks'}]
    for alone, start in ((True, []), (False, [1])):
        (example,) = tokenize(_Listed(record), Template('a'), Template('b'), tokenizer, decoder_only=alone)
        assert example.source.tolist() == tokenizer.encode('A man') and example.source[0] == 1
        assert example.target.tolist() == [*start, *tokenizer.encode('walks')[1:]]


class _Listed(list):
    def where(self, index):
        return f'record {index}'


def test_padding_beyond_the_embedding_is_none():
    assert pad_id({'pad_token_id': 420}, 2, 420) == -1
    assert pad_id({'pad_token_id': 0}, 2, 420) == 0
