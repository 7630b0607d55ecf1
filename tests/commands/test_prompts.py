"""Prompts as a user gives them: conversations, prompts that are too long, answers with their depths."""

import datetime
import io
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from rich.console import Console

import calm_jax as calm
from calm_jax.calibration import Certificate, Point, calibrate
from calm_jax.certified import environment
from calm_jax.cli import main
from calm_jax.commands.shown_depth import coloured, print_depths
from calm_jax.data.conversation import Conversation
from calm_jax.decoding import codec
from calm_jax.model import Model

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'gpt2'
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('no critics') }}{% endif %}"
    "{{ m.role + ': ' + m.content }}{% if m.content == 'day' %}{{ strftime_now(' %d%H') }}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
)
DATE = datetime.datetime(2026, 1, 31, 12)
LIMITS = ['--max_source_length', '24', '--max_new_tokens', '4']


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A decoder-only model whose tokenizer has a chat template, and a token that the model does not embed."""
    root = tmp_path_factory.mktemp('chat')
    shutil.copytree(FIXTURE, root / 'published')
    size = json.loads((FIXTURE / 'config.json').read_text())['vocab_size']
    held = len(json.loads((FIXTURE / 'vocab.json').read_text()))
    filling = {f'<filling{number}>': number for number in range(held, size)}
    (root / 'published' / 'added_tokens.json').write_text(json.dumps({**filling, '<pad>': size}))
    settings = {'tokenizer_class': 'GPT2Tokenizer', 'chat_template': TEMPLATE, 'pad_token': '<pad>'}
    (root / 'published' / 'tokenizer_config.json').write_text(json.dumps(settings))
    assert main(['import', str(root / 'published'), '--output', str(root / 'model'), '--quiet']) == 0
    return str(root / 'model')


def test_a_conversation_is_decoded_as_the_text_that_its_template_makes(checkpoint, tmp_path, capsys):
    prompt = ['generate', '--checkpoint', checkpoint, *LIMITS, '--prompt']
    assert main([*prompt, 'user: fox\nbot:']) == 0
    expected = capsys.readouterr().out
    assert main([*prompt, 'fox', '--chat']) == 0
    assert capsys.readouterr().out == expected
    messages = [{'role': 'user', 'content': 'fox'}]
    (tmp_path / 'in.jsonl').write_text(json.dumps({'messages': messages, 'source': 'fox'}) + '\n')
    for flags in (['--source_field', 'messages'], ['--chat']):
        files = ['--input', str(tmp_path / 'in.jsonl'), '--output', str(tmp_path / 'out.jsonl'), '--overwrite', '--quiet']
        assert main(['generate', '--checkpoint', checkpoint, *LIMITS, *files, *flags]) == 0
        assert json.loads((tmp_path / 'out.jsonl').read_text())['text'] + '\n' == expected
    model = calm.load(checkpoint)
    limits = calm.Limits(max_source_length=24, max_new_tokens=4)
    assert model.generate([messages], limits=limits)[0].text == expected[:-1]
    assert ''.join(model.stream_tokens(Conversation(messages), limits=limits)) == expected[:-1]


def test_what_users_say_goes_through_the_standard_streams(checkpoint, tmp_path, monkeypatch, capsys):
    prompt = ['generate', '--checkpoint', checkpoint, *LIMITS]
    assert main([*prompt, '--prompt', 'user: fox\nbot:']) == 0
    expected = capsys.readouterr().out
    for form, given in (('text', 'fox\n'), ('jsonl', json.dumps({'source': 'fox', 'id': 'a'}))):
        monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(given.encode())))
        streams = ['--input', '-', '--output', '-', '--input_format', form, '--output_format', form, '--quiet']
        assert main([*prompt, *streams, '--chat']) == 0
        written = capsys.readouterr()
        assert written.err == ''
        assert (written.out if form == 'text' else json.loads(written.out)['text'] + '\n') == expected


@pytest.fixture
def clock(monkeypatch):
    """Sets the time that the command takes for now."""

    def set_to(date):
        class Fixed(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return date

        monkeypatch.setattr('calm_jax.model.datetime', types.SimpleNamespace(datetime=Fixed))

    return set_to


def test_the_date_that_prompts_say_is_a_flag_is_written_down_and_is_gone_on_with(
    checkpoint, tmp_path, monkeypatch, clock, capsys
):
    rows, real = [{'source': each} for each in ('day', 'fox', 'day')], Model.stream
    (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in rows))

    def run(*flags, output='out.jsonl', chat=('--chat',)):
        files = ['--input', str(tmp_path / 'in.jsonl'), '--output', str(tmp_path / output), '--quiet', '--batch_size', '1']
        return main(['generate', '--checkpoint', checkpoint, *LIMITS, *files, *chat, *flags])

    def header(output='out.jsonl'):
        return json.loads((tmp_path / f'{output}.config.json').read_text())

    assert run('--date', '2026-01-31T12:00', output='flag.jsonl') == 0
    assert header('flag.jsonl')['date'] == '2026-01-31T12:00:00'
    texts = ['user: day 3112\nbot:', 'user: fox\nbot:', 'user: day 3112\nbot:']
    outputs = calm.load(checkpoint).generate(texts, limits=calm.Limits(24, 4), batch_size=1)
    expected = (tmp_path / 'flag.jsonl').read_text()
    assert [json.loads(line)['tokens'] for line in expected.splitlines()] == [each.tokens for each in outputs]

    def dies(*args, **kwargs):
        for output in real(*args, **kwargs):
            yield output
            raise KeyboardInterrupt

    clock(DATE)
    with monkeypatch.context() as patch:
        patch.setattr(Model, 'stream', dies)
        assert run() == 130
    assert header('out.jsonl.partial')['date'] == DATE.isoformat()
    clock(DATE.replace(year=2027, day=1))
    capsys.readouterr()
    assert run('--resume', '--date', '2026-02-01') == 2
    assert 'made from other input or settings than these (date)' in capsys.readouterr().err
    assert run('--resume') == 0
    assert (tmp_path / 'out.jsonl').read_text() == expected and header()['date'] == DATE.isoformat()
    assert run('--resume') == 0  # complete, on any day

    # Where no prompt says a date, none is written down, and none may be told.
    assert run(output='texts.jsonl', chat=()) == 0
    assert 'date' not in header('texts.jsonl')
    assert run('--date', '2026-02-01', output='none.jsonl', chat=()) == 2
    assert '--date changes nothing: no input is a conversation' in capsys.readouterr().err
    assert run('--date', 'today', output='none.jsonl') == 2
    assert "argument --date: 'today'; expected a date such as 2026-01-31" in capsys.readouterr().err


def certificate_of(checkpoint, path, **data):
    """Writes a certificate of full depth that says how its inputs were made."""
    model = calm.load(checkpoint)
    document = codec.to_json(model.resolve(calm.Decoding(limits=calm.Limits(24, 4))))
    provenance = {**model.fingerprints, 'data': {'name': 'cal.jsonl', **data}, 'environment': environment(1, 'none')}
    certificate = calibrate(np.ones((100, 1)), [Point(document)], 0.2, 0.05, provenance=provenance, full=document)
    certificate.save(path)
    return ['generate', '--checkpoint', checkpoint, '--certificate', str(path)]


@pytest.fixture(autouse=True)
def unwarned(monkeypatch):
    """A process that has warned of nothing yet."""
    monkeypatch.setattr('calm_jax.certified._warned', set())


def test_a_prompt_beside_a_certificate_is_made_as_its_inputs_were(checkpoint, tmp_path, capsys):
    def said(*command):
        assert main([*command]) == 0
        return capsys.readouterr()

    raw = ['generate', '--checkpoint', checkpoint, *LIMITS, '--prompt']
    expected, dated = said(*raw, 'user: fox\nbot:'), said(*raw, 'user: day 3112\nbot:')
    assert expected.out != said(*raw, 'fox').out and dated.out != said(*raw, 'user: day 0100\nbot:').out
    path = tmp_path / 'c.json'
    talks = {'source_field': 'messages', 'examples': 100, 'conversations': 100, 'date': DATE.isoformat()}
    chat = certificate_of(checkpoint, path, **talks)
    assert said(*chat, '--prompt', 'fox') == said(*chat, '--prompt', 'fox', '--chat') == expected
    assert said(*chat, '--prompt', 'day') == dated
    told = said(*chat, '--prompt', 'day', '--date', '2027-02-01')
    assert told.out != dated.out and 'date is 2027-02-01 00:00:00 here, 2026-01-31 12:00:00 in the certificate' in told.err
    (tmp_path / 'in.txt').write_text('fox\nday\n')
    assert said(*chat, '--input', str(tmp_path / 'in.txt'), '--output', '-').out == expected.out + dated.out
    model = calm.load(checkpoint)
    messages = [{'role': 'user', 'content': 'day'}]
    outputs = model.generate(['fox', messages, {'messages': messages}], certificate=path)
    assert [f'{each.text}\n' for each in outputs] == [expected.out, dated.out, dated.out]
    assert ''.join(model.stream_tokens('fox', certificate=path)) + '\n' == expected.out

    field = certificate_of(checkpoint, path, source_field='user: {en}\nbot:', examples=100)
    assert said(*field, '--prompt', 'fox') == expected
    several = certificate_of(checkpoint, path, source_field='{a}: {b}', examples=100)
    alone = said(*several, '--prompt', 'user: fox\nbot:')
    assert alone.out == expected.out and '--prompt is decoded as it is, and the inputs of the certificate' in alone.err
    assert len(alone.err.splitlines()) == 1
    assert main([*several, '--prompt', 'fox', '--chat']) == 2
    assert '--chat: the certificate covers inputs that are no conversations' in capsys.readouterr().err
    (tmp_path / 'in.jsonl').write_text(json.dumps({'en': messages}) + '\n')
    texts = certificate_of(checkpoint, path, source_field='en', examples=100)
    warned = said(*texts, '--input', str(tmp_path / 'in.jsonl'), '--output', '-', '--date', DATE.isoformat())
    assert warned.out == dated.out and 'inputs are conversations here, and none was' in warned.err


def test_a_certificate_says_of_which_day_its_conversations_are_and_records_are_gone_on_with(
    checkpoint, tmp_path, clock, capsys
):
    rows = [{'messages': [{'role': 'user', 'content': 'day' if row % 2 else f'fox {row}'}]} for row in range(16)]
    (tmp_path / 'cal.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in rows))

    def run(*flags, output='c.json'):
        data = ['--data', str(tmp_path / 'cal.jsonl'), '--source_field', 'messages', '--output', str(tmp_path / output)]
        promise = ['--measure', 'static', '--grid', '0.5', '--metric', 'accuracy', '--tolerance', '0.9', '--quiet']
        return main(['calibrate', '--checkpoint', checkpoint, *LIMITS, *data, *promise, *flags])

    clock(DATE)
    assert run() == 0
    clock(DATE.replace(year=2027))
    assert run(output='again.json') == 0
    (folder,) = (tmp_path / 'calm_records').iterdir()  # of the data and the settings, on any day
    data = json.loads((folder / 'records.json').read_text())['data']
    assert (data['conversations'], data['date']) == (16, DATE.isoformat())
    for name in ('c.json', 'again.json'):
        assert Certificate.load(tmp_path / name).provenance['data'] == data
    assert main(['certificate', str(tmp_path / 'c.json')]) == 0
    assert 'data.date           2026-01-31T12:00:00' in capsys.readouterr().out
    assert run('--date', '2026-02-01', output='other.json') == 0
    assert len(list((tmp_path / 'calm_records').iterdir())) == 2
    assert run('--date', '2026-02-01', '--records', str(folder), output='none.json') == 2
    assert 'decoded otherwise (date)' in capsys.readouterr().err


def test_a_prompt_that_is_too_long_loses_its_beginning_and_the_command_says_so(checkpoint, capsys):
    model, long = calm.load(checkpoint), 'x' * 400
    (batch,) = next(iter(calm_windows(model, [long + 'fox', 'the fox'])))
    texts = {int(row): model.tokenizer.decode(batch.tokens[at][batch.mask[at]]) for at, row in enumerate(batch.rows)}
    assert texts[0].endswith('xfox') and texts[1] == 'the fox'
    assert main(['generate', '--checkpoint', checkpoint, *LIMITS, '--prompt', long]) == 0
    assert 'longer than 24 tokens and was cut: it lost its beginning' in capsys.readouterr().err


def calm_windows(model, texts):
    from calm_jax.data.windows import decode_windows

    return decode_windows(map(model.encode, texts), 2, max_source_length=24, **model.padding)


def test_depths_are_shown_in_colours_that_spell_the_answer(checkpoint, capsys):
    model = calm.load(checkpoint)
    exits = calm.Exit(calm.SoftmaxGap(), threshold=0.01)
    output = model.generate('the fox', limits=calm.Limits(max_source_length=24, max_new_tokens=4), exit=exits)
    shown = coloured(output, model)
    assert shown.plain == output.text
    assert len({span.style for span in shown.spans}) == len(set(output.exit_layers))
    written = io.StringIO()
    print_depths(output, model, Console(file=written, force_terminal=True, color_system='truecolor', width=80))
    assert '\x1b[38;2;' in written.getvalue() and f'{output.layers:.2f} per token' in written.getvalue()
    prompt = ['generate', '--checkpoint', checkpoint, *LIMITS, '--prompt', 'the fox']
    outs = []
    for flags in ([], ['--show_depth']):
        assert main([*prompt, *flags]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]  # no terminal, no colours


def test_a_text_that_spells_a_token_which_the_model_does_not_embed_is_refused(checkpoint, capsys):
    assert main(['generate', '--checkpoint', checkpoint, *LIMITS, '--prompt', 'a <pad> b']) == 2
    assert "a text holds '<pad>', token" in capsys.readouterr().err


def test_a_record_that_makes_no_prompt_is_named_before_anything_is_written(checkpoint, tmp_path, capsys):
    good = {'messages': [{'role': 'user', 'content': 'fox'}], 'source': 'fox'}
    for field, bad, message in (
        ('messages', {**good, 'messages': [{'role': 'critic', 'content': 'fox'}]}, 'the chat template refuses the messages'),
        ('source', {**good, 'source': 'a <pad> b'}, "holds '<pad>', token"),
    ):
        (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in (good, bad)))
        files = ['--input', str(tmp_path / 'in.jsonl'), '--output', str(tmp_path / 'out.jsonl'), '--source_field', field]
        assert main(['generate', '--checkpoint', checkpoint, *LIMITS, *files, '--quiet']) == 2
        error = capsys.readouterr().err
        assert 'in.jsonl:2' in error and message in error, error
        assert [each.name for each in tmp_path.iterdir()] == ['in.jsonl']


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--input', 'in.jsonl', '--output', 'out.jsonl', '--show_depth'], '--show_depth colours the answer to --prompt'),
        (['--prompt', 'a', '--batch_size', '4'], '--batch_size 4 changes nothing with --prompt, which is one text'),
        (['--prompt', 'a', '--date', '2026-01-31'], '--date changes nothing: no input is a conversation'),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(checkpoint, capsys, flags, message):
    assert main(['generate', '--checkpoint', checkpoint, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_a_template_says_so(tmp_path, capsys):
    assert main(['import', str(FIXTURE), '--output', str(tmp_path / 'model'), '--quiet']) == 0
    assert main(['generate', '--checkpoint', str(tmp_path / 'model'), '--prompt', 'a', '--chat']) == 2
    assert 'has no chat template' in capsys.readouterr().err
