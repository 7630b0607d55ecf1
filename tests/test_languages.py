"""Texts in the languages that are asked for: what a model says then is what transformers says, and which there are."""

import json

import pytest

from calm_jax.checkpoints import huggingface, native
from calm_jax.cli import main
from calm_jax.data.windows import decode_windows
from calm_jax.decoding.choice import Beam, Greedy
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.model import load
from tests.data.test_published_tokenizers import KINDS, write

TEXT, LIMITS = 'Two women walks in the green room.', Limits(max_new_tokens=8)
PAIRS = [('en_XX', 'ro_RO'), ('ro_RO', 'fr_XX')]


@pytest.fixture(scope='module', params=['mbart', 'mbart-50'])
def both(request, tmp_path_factory):
    """(our model, what transformers says of a text in a language and another, by how many beams, the native checkpoint)."""
    torch = pytest.importorskip('torch', reason='needs torch')
    transformers = pytest.importorskip('transformers')
    folder = write(tmp_path_factory.mktemp('languages') / 'model', *KINDS[request.param][1:])
    (folder / 'config.json').write_text(json.dumps({'model_type': 'mbart'}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.MBartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
        init_std=0.5,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    reference = transformers.MBartForConditionalGeneration(config).eval()
    reference.save_pretrained(folder)

    def said(source, target, beams):
        tokenizer.src_lang = source
        number = tokenizer.convert_tokens_to_ids(target)
        begins = 'forced_bos_token_id' if request.param == 'mbart-50' else 'decoder_start_token_id'
        inputs = tokenizer(TEXT, return_tensors='pt')
        with torch.no_grad():
            return reference.generate(**inputs, **{begins: number}, max_new_tokens=8, num_beams=beams)[0].tolist()[1:]

    native.save(folder.parent / 'native', *huggingface.read(folder, 'float32'))
    return load(folder.parent / 'native'), said, str(folder.parent / 'native')


def test_what_is_said_in_a_language_is_what_transformers_says(both):
    model, said, _ = both
    sources, targets = map(list, zip(*PAIRS))
    # Beams begin as rows do: one place of the language will do.
    for beams, choice in [(1, Greedy())] if model.tokenizer.start_ids else [(1, Greedy()), (3, Beam(3))]:
        expected = [said(*pair, beams) for pair in PAIRS]
        assert expected[0] != expected[1]
        options = {'limits': LIMITS, 'choice': choice}
        together = model.generate([TEXT] * 2, source_language=sources, target_language=targets, **options)
        assert [each.tokens for each in together] == expected
        alone = model.generate([TEXT] * 2, source_language=sources[0], target_language=targets[0], **options)
        assert [each.tokens for each in alone] == [expected[0]] * 2


def test_a_text_that_is_too_long_keeps_its_language(both):
    model, *_ = both
    for code in ('ro_RO', 'en_XX'):
        tokenizer = model.tokenizer.languages[code]
        ((batch,),) = decode_windows([model.encode(TEXT, code)], 1, max_source_length=6, **model.padding)
        read, before, behind = batch.tokens[0][batch.mask[0]].tolist(), tokenizer.start_ids, tokenizer.end_ids
        assert batch.truncated[0] and len(read) == 6
        assert read[: len(before)] == list(before) and read[6 - len(behind) :] == list(behind)
        assert model.tokenizer.pieces([*before, *behind])[-1] == code


def test_records_name_their_languages_and_the_command_says_the_same(both, tmp_path, capsys):
    model, _, native_checkpoint = both
    source = tmp_path / 'in.jsonl'
    lines = [{'source': TEXT, 'from': one, 'to': other} for one, other in PAIRS]
    source.write_text(''.join(json.dumps(each) + '\n' for each in lines))
    flags = ['generate', '--checkpoint', native_checkpoint, '--quiet', '--max_new_tokens', '8']
    files = ['--input', str(source), '--output', str(tmp_path / 'out.jsonl')]
    named = ['--source_language', '{from}', '--target_language', '{to}']
    assert main([*flags, *files, *named]) == 0
    records = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    pairs = [{'source_language': one, 'target_language': other} for one, other in PAIRS]
    expected = [model.generate(TEXT, limits=LIMITS, **pair) for pair in pairs]
    assert [each['tokens'] for each in records] == [each.tokens for each in expected]
    assert main([*flags, '--prompt', TEXT, '--source_language', 'en_XX', '--target_language', 'ro_RO']) == 0
    assert capsys.readouterr().out == expected[0].text + '\n'
    # Languages are among what a run that goes on must share with what it goes on with.
    assert main([*flags, *files, *named, '--resume']) == 0
    assert main([*flags, *files, '--resume']) == 2 and 'source_language' in capsys.readouterr().err
    source.write_text(json.dumps({**lines[0], 'to': 'ro_RA'}) + '\n')
    assert main([*flags, *files, *named, '--overwrite']) == 2
    assert "in.jsonl:1: target_language is 'ro_RA'; the checkpoint has no such language; did you" in capsys.readouterr().err


@pytest.mark.parametrize(
    'options, message',
    [
        ({'source_language': 'ro_RA'}, "^source_language is 'ro_RA'; .* has no such language; did you mean ro_RO[?]$"),
        ({'target_language': '한국어'}, '^target_language is .* no such language; expected one of [0-9]+, such as ar_AR$'),
        ({'target_language': ['ro_RO']}, '^target_language has 1 languages for 2 texts; expected one for each$'),
        ({'target_language': ['ro_RO', None]}, r"^target_language is \['ro_RO', None\]; expected a code, .* for each text$"),
    ],
    ids=str,
)
def test_a_language_that_there_is_not_is_one_line(both, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        both[0].generate([TEXT] * 2, **options)


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--certificate', 'c.json', '--target_language', 'ro_RO'], '--target_language and --certificate: '),
        (['--prompt', 'x', '--source_language', '{from}'], '--source_language {from}: a prompt is no record'),
        (['--prompt', 'x', '--target_language', 'ro_RO'], "target_language is 'ro_RO'; the checkpoint has no languages"),
    ],
)
def test_flags_of_languages_that_cannot_be_meant_are_one_line(flags, message, checkpoint, tmp_path, capsys):
    given = ['--input', 'in.jsonl', '--output', str(tmp_path / 'out.jsonl')] if '--prompt' not in flags else []
    assert main(['generate', '--checkpoint', checkpoint, *given, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_model_without_languages_has_none_to_ask_for(checkpoint):
    with pytest.raises(ValueError, match='the checkpoint has no languages: leave it out$'):
        load(checkpoint).check(Decoding(limits=LIMITS), source_language='en_XX')
