"""Tokenizers: text survives the round trip, ids never raise, a folder tells its kind."""

import json
import os
import pathlib
import re

import pytest
import sentencepiece

from calm_jax.data.tokenizers import ByteTokenizer, SentencePieceTokenizer, load_tokenizer, train_sentencepiece

SIZE = 300
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
    '  two  spaces  ',
    'line\nbreak\ttab\r\n',
    'Größe, élève, naïve; 日本語 🙂 e\u0301',
    '</s> <pad> <0x41> <unk> {x}',
    'ﬁ ½ Ⅷ\u00a0nbsp',
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    return folder, train_sentencepiece(SENTENCES, SIZE, folder / 'spiece.model')


@pytest.fixture(params=['sentencepiece', 'bytes'])
def tokenizer(request, trained):
    return trained[1] if request.param == 'sentencepiece' else ByteTokenizer()


@pytest.mark.parametrize('text', TEXTS)
def test_text_survives_the_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(isinstance(i, int) and 0 <= i < tokenizer.vocab_size for i in ids)
    assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.decode(ids) == text


def test_decoding_stops_at_the_end_of_sequence_and_drops_padding(tokenizer):
    ids = tokenizer.encode('A man')
    assert tokenizer.decode([*ids, tokenizer.eos_id, *ids, tokenizer.pad_id]) == 'A man'
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.pad_id]) == 'A man'
    assert tokenizer.decode([tokenizer.eos_id]) == tokenizer.decode([]) == ''


def test_any_ids_decode_and_show_and_so_does_every_prefix_of_a_text(tokenizer):
    every = [i for i in range(-2, tokenizer.vocab_size + 200) if i != tokenizer.eos_id]
    assert isinstance(tokenizer.decode(every), str)
    for i in [*every, tokenizer.eos_id]:
        (piece,) = tokenizer.pieces([i])
        assert piece and isinstance(tokenizer.decode([i]), str)
    ids = tokenizer.encode('日本語 🙂')
    for length in range(len(ids)):
        assert '\n' not in tokenizer.decode(ids[:length])
    assert tokenizer.decode(every + ids).endswith('日本語 🙂')


def test_pieces_side_by_side_spell_a_text(tokenizer):
    ids = tokenizer.encode('Two women walks')
    assert ''.join(tokenizer.pieces(ids)).strip() == 'Two women walks'
    assert len(tokenizer.pieces([*ids, tokenizer.eos_id])) == len(ids) + 1
    assert tokenizer.pieces([tokenizer.eos_id, tokenizer.pad_id]) == ['</s>', '<pad>']


def test_a_saved_tokenizer_loads_as_itself(tokenizer, tmp_path):
    tokenizer.save(tmp_path / 'new' / 'folder')
    loaded = load_tokenizer(tmp_path / 'new' / 'folder')
    assert type(loaded) is type(tokenizer)
    assert (loaded.vocab_size, loaded.pad_id, loaded.eos_id) == (tokenizer.vocab_size, 0, 1)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_byte_ids_are_bytes_plus_three():
    assert ByteTokenizer().encode('aé') == [97 + 3, 0xC3 + 3, 0xA9 + 3]
    assert ByteTokenizer().vocab_size == 259
    assert ByteTokenizer(extra_ids=125).vocab_size == 384
    assert ByteTokenizer().decode([0xC3 + 3]) == '\ufffd'
    assert ByteTokenizer().pieces([97 + 3, 0xC3 + 3, 0, 300]) == ['a', '<0xC3>', '<pad>', '<300>']


def test_training_gives_the_ids_asked_for_and_the_same_bytes_again(trained, tmp_path):
    folder, tokenizer = trained
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / 'spiece.model'))
    assert (processor.pad_id(), processor.eos_id(), processor.unk_id(), processor.bos_id()) == (0, 1, 2, -1)
    assert processor.vocab_size() == tokenizer.vocab_size == SIZE
    assert load_tokenizer(folder).fingerprint() == tokenizer.fingerprint()
    again = train_sentencepiece(iter(SENTENCES), SIZE, tmp_path / 'spiece.model')
    assert again.model == tokenizer.model
    other = train_sentencepiece(SENTENCES[:60], SIZE - 5, tmp_path / 'other.model')
    assert other.fingerprint() != tokenizer.fingerprint()


def test_without_byte_fallback_foreign_characters_are_unknown(tmp_path):
    tokenizer = train_sentencepiece(SENTENCES, 48, tmp_path / 'spiece.model', byte_fallback=False)
    assert 2 in tokenizer.encode('日本')
    assert tokenizer.decode(tokenizer.encode(SENTENCES[7])) == SENTENCES[7]


@pytest.mark.parametrize('size, texts', [(5_000, SENTENCES), (200, SENTENCES)])
def test_a_vocabulary_that_the_texts_do_not_allow_is_refused_in_one_line(tmp_path, size, texts):
    with pytest.raises(ValueError, match=f'cannot train a vocabulary of {size} pieces: .') as error:
        train_sentencepiece(texts, size, tmp_path / 'spiece.model')
    assert '\n' not in str(error.value) and '.cc' not in str(error.value)
    with pytest.raises(ValueError, match='no text'):
        train_sentencepiece(['', '\n'], size, tmp_path / 'spiece.model')
    assert not (tmp_path / 'spiece.model').exists()


def test_sentinels_count_down_from_the_last_id(trained):
    model = trained[1].model
    tokenizer = SentencePieceTokenizer(model, extra_ids=100)
    assert tokenizer.vocab_size == SIZE + 100
    ids = tokenizer.encode('A man <extra_id_0> outside <extra_id_99>')
    assert [i for i in ids if i >= SIZE] == [SIZE + 99, SIZE]
    assert tokenizer.decode(ids) == 'A man <extra_id_0> outside <extra_id_99>'
    assert tokenizer.pieces([SIZE + 99]) == [' <extra_id_0>']
    assert tokenizer.encode(SENTENCES[0]) == trained[1].encode(SENTENCES[0])
    assert tokenizer.fingerprint() != trained[1].fingerprint()
    # Models have more output ids than there are pieces; they have no text.
    assert tokenizer.decode([SIZE + 99, SIZE + 100, SIZE + 127]) == '<extra_id_0>'
    assert tokenizer.pieces([SIZE + 100]) == [f'<{SIZE + 100}>']


@pytest.mark.parametrize('config, extra_ids', [(None, 100), ({}, 100), ({'extra_ids': 0}, 0), ({'extra_ids': 7}, 7)])
def test_the_number_of_sentinels_is_read_from_the_folder_and_is_100_unless_said(trained, tmp_path, config, extra_ids):
    (tmp_path / 'spiece.model').write_bytes(trained[1].model)
    if config is not None:
        (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).vocab_size == SIZE + extra_ids


def test_saving_keeps_what_else_the_tokenizer_configuration_says(trained, tmp_path):
    (tmp_path / 'tokenizer_config.json').write_text('{"model_max_length": 512, "extra_ids": 3}')
    trained[1].save(tmp_path)
    assert json.loads((tmp_path / 'tokenizer_config.json').read_text()) == {'model_max_length': 512, 'extra_ids': 0}


def test_a_folder_without_a_tokenizer_lists_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'looked for spiece\.model, or byte_tokenizer\.json'):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match='is not a folder'):
        load_tokenizer(tmp_path / 'missing')


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / 'spiece.model'
    for content in (b'not a model', b''):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f'{path}: not a SentencePiece model')):
            load_tokenizer(tmp_path)
    path.unlink()
    (tmp_path / 'byte_tokenizer.json').write_text('{')
    with pytest.raises(ValueError, match='byte_tokenizer.json: not valid JSON'):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    'content, message',
    [
        ('[]', r'expected a JSON object, found \[\]'),
        ('{"extra_ids": "7"}', '"extra_ids" is "7"; expected a whole number'),
        ('{"extra_ids": -1}', '"extra_ids" is -1; expected a whole number'),
    ],
)
def test_a_tokenizer_configuration_that_cannot_be_meant_is_refused_in_one_line(trained, tmp_path, content, message):
    (tmp_path / 'spiece.model').write_bytes(trained[1].model)
    (tmp_path / 'tokenizer_config.json').write_text(content)
    with pytest.raises(ValueError, match=f'tokenizer_config.json: {message}'):
        load_tokenizer(tmp_path)
    (tmp_path / 'spiece.model').unlink()
    (tmp_path / 'byte_tokenizer.json').write_text(content)
    with pytest.raises(ValueError, match=f'byte_tokenizer.json: {message}'):
        load_tokenizer(tmp_path)


PUBLISHED = pathlib.Path(os.environ.get('CALM_TEST_DATA', 'nowhere')) / 'vocab' / 't5' / 'spiece.model'


@pytest.mark.skipif(not PUBLISHED.exists(), reason='data outside the repository: $CALM_TEST_DATA/vocab/t5/spiece.model')
def test_the_published_vocabulary_has_the_ids_of_the_literature():
    tokenizer = SentencePieceTokenizer(PUBLISHED.read_bytes(), extra_ids=100)
    assert tokenizer.vocab_size == 32_100
    # The span-corruption example of Raffel et al., 2020, figure 2; sentinels 0 and 1 are 32099 and 32098.
    ids = tokenizer.encode('Thank you <extra_id_0> me to your party <extra_id_1> week.')
    assert [i for i in ids if i >= 32_000] == [32_099, 32_098]
    assert tokenizer.decode([*ids, 1, 0]) == 'Thank you <extra_id_0> me to your party <extra_id_1> week.'
    assert tokenizer.decode([32_127]) == ''


def test_an_exported_vocabulary_is_read_by_transformers_with_the_same_ids(trained, tmp_path):
    transformers = pytest.importorskip('transformers')
    tokenizer = SentencePieceTokenizer(trained[1].model, extra_ids=3)
    tokenizer.publish(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, 'A man <extra_id_0> outside <extra_id_2>']:
        if '</s>' not in text:  # there it is the end itself
            assert reference(text).input_ids == [*tokenizer.encode(text), tokenizer.eos_id], text
    again = load_tokenizer(tmp_path)
    assert [again.encode(text) for text in SENTENCES] == [tokenizer.encode(text) for text in SENTENCES]
