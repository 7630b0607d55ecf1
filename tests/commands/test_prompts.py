"""Prompts as a user gives them: conversations, prompts that are too long, answers with their depths."""

import io
import json
import pathlib
import shutil

import pytest
from rich.console import Console

import calm_jax as calm
from calm_jax.cli import main
from calm_jax.commands.shown_depth import coloured, print_depths
from calm_jax.data.conversation import Conversation

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'gpt2'
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('no critics') }}{% endif %}"
    "{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
)
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
        (['--prompt', 'a', '--chat', '--certificate', 'c.json'], '--chat and --certificate: the guarantee is for inputs'),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(checkpoint, capsys, flags, message):
    assert main(['generate', '--checkpoint', checkpoint, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_a_template_says_so(tmp_path, capsys):
    assert main(['import', str(FIXTURE), '--output', str(tmp_path / 'model'), '--quiet']) == 0
    assert main(['generate', '--checkpoint', str(tmp_path / 'model'), '--prompt', 'a', '--chat']) == 2
    assert 'has no chat template' in capsys.readouterr().err
