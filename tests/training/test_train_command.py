import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from calm_jax.checkpoints import native
from calm_jax.cli import main
from calm_jax.commands import train
from calm_jax.training import jobs


@pytest.fixture
def light(arguments, monkeypatch, toy):
    """The same flags where the model is a vector: all that a command does around training, and nothing to compile."""
    monkeypatch.setattr(jobs, 'multi_exit_stage', lambda *settings: toy)
    monkeypatch.setattr(jobs, 'init_params', lambda config, key: toy.params)
    return [*arguments, "--gin.BEST_METRIC='loss'"]


def test_both_stages_run_as_a_user_would_and_leave_loadable_checkpoints(tmp_path, arguments, jsonl, capsys):
    assert main(arguments) == 0
    model_dir = tmp_path / 'model'
    assert {path.name for path in model_dir.iterdir()} == {
        'best',
        'last',
        'state',
        'metrics.jsonl',
        'config.gin',
        'inputs.json',
    }
    written = (model_dir / 'config.gin').read_text()
    assert 'TRAIN_STEPS = 2' in written and 'BATCH_SIZE = 8' in written and 'LEARNING_RATE = 0.01' in written
    first = native.load(model_dir / 'best')
    assert first.config.num_encoder_layers == 1 and first.config.num_decoder_layers == 2
    assert first.generation['limits']['max_new_tokens'] == 8

    assert (
        main(
            [
                'train',
                '--stage=classifier',
                f'--output={tmp_path}/classifier',
                f'--checkpoint={model_dir}/best',
                f'--train_data={jsonl}',
                f'--eval_data={jsonl}',
                '--source={en}',
                '--target=fr',
                '--max_source_length=8',
                '--max_target_length=8',
                '--steps=200',
                '--max_minutes=0.000001',
                '--batch_size=8',
                '--quiet',
            ]
        )
        == 0
    )
    second = native.load(tmp_path / 'classifier' / 'best')
    assert native.fingerprint(second.params) == native.fingerprint(first.params)
    assert second.heads['exit_classifier']['bias'].shape == (1,)
    evaluation = json.loads((tmp_path / 'classifier' / 'metrics.jsonl').read_text().splitlines()[-1])['eval']
    assert len(evaluation['dont_exit_f1_by_layer']) == 1
    assert capsys.readouterr().err == ''


def test_a_checkpoint_is_trained_on_with_its_own_tokenizer_and_configuration(tmp_path, arguments, jsonl, capsys):
    assert main([*arguments, '--gin.EXIT_WEIGHTS=@last_only', '--gin.SAMPLED_EXITS=False']) == 0
    begun = native.load(tmp_path / 'model' / 'last')
    native.save(
        tmp_path / 'begun',
        begun.config,
        begun.params,
        begun.tokenizer,
        begun.heads,
        {'limits': {'max_new_tokens': 5}, 'choice': {'class': 'beam', 'size': 4}},
    )
    # At a rate of nearly 0 what is written is what was begun with.
    assert (
        main(
            [
                'train',
                f'--output={tmp_path}/tuned',
                '--learning_rate=1e-9',
                f'--checkpoint={tmp_path}/begun',
                f'--train_data={jsonl}',
                f'--train_data={jsonl}',
                '--source=en',
                '--target=fr',
                '--max_source_length=8',
                '--max_target_length=8',
                '--steps=2',
                '--batch_size=8',
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert '48 examples; cut' in printed.err and printed.out == (
        f'{tmp_path}/tuned/last: of the last step; next: calm generate --checkpoint {tmp_path}/tuned/last --input {jsonl} '
        f'--source_field en --output {tmp_path}/tuned.jsonl --measure softmax_gap --threshold 0.9\n'
    )
    after = native.load(tmp_path / 'tuned' / 'last')
    assert (after.generation['choice']['size'], after.generation['limits']['max_new_tokens']) == (
        4,
        8,
    )  # its own, and those of the data
    assert after.config == begun.config and after.tokenizer.fingerprint() == begun.tokenizer.fingerprint()
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), after.params, begun.params)


def test_an_existing_model_folder_is_never_written_by_accident(tmp_path, light, capsys):
    model_dir = tmp_path / 'model'
    assert main(light) == 0
    log = (model_dir / 'metrics.jsonl').read_text()
    assert main(light) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and '--resume' in line and '--overwrite' in line and str(model_dir) in line
    assert (model_dir / 'metrics.jsonl').read_text() == log
    assert main([*light, '--steps=3', '--resume']) == 0
    assert [json.loads(text)['step'] for text in (model_dir / 'metrics.jsonl').read_text().splitlines()] == [1, 2, 2, 3, 3]
    assert main([*light, '--overwrite']) == 0
    assert [json.loads(text)['step'] for text in (model_dir / 'metrics.jsonl').read_text().splitlines()] == [1, 2, 2]


def test_flags_choose_batches_by_tokens_updates_of_several_and_an_early_end(tmp_path, light, capsys):
    # Nothing is learned at this rate: the first evaluation stays the best.
    flags = ['--batch_tokens=32', '--accumulate=3', '--patience=2', '--steps=50', '--gin.EVAL_EVERY=1', '--learning_rate=1e-12']
    command = [argument for argument in light if not argument.startswith(('--batch_size', '--quiet', '--learning'))] + flags
    assert main(command) == 0
    model_dir = tmp_path / 'model'
    said, log = capsys.readouterr().err, [json.loads(line) for line in (model_dir / 'metrics.jsonl').read_text().splitlines()]
    assert log[-1]['step'] == 3 and log[-1]['patience'] == 2 and 'step 3: ends, loss was not better than' in said
    written = (model_dir / 'config.gin').read_text()
    for line in ('BATCH_SIZE = None', 'BATCH_TOKENS = 32', 'ACCUMULATE = 3', 'PATIENCE = 2'):
        assert line in written
    assert main([*command, '--resume', '--patience=4']) == 0
    assert json.loads((model_dir / 'metrics.jsonl').read_text().splitlines()[-1])['step'] == 5
    # A flag for rows takes the tokens of a gin file back.
    (tmp_path / 'mine.gin').write_text('BATCH_SIZE = None\nBATCH_TOKENS = 32\n')
    assert main([*light, f'--gin_file={tmp_path}/mine.gin', f'--output={tmp_path}/rows']) == 0
    assert 'BATCH_TOKENS = None' in (tmp_path / 'rows' / 'config.gin').read_text()


def test_a_gin_file_of_ones_own_need_not_know_of_tokens(tmp_path, capsys):
    (tmp_path / 'mine.gin').write_text("""
BATCH_SIZE = 8
job.run = @train_model
train_model.model_dir = 'model'
train_model.checkpoint = 'nowhere'
train_model.data = @PairedText()
train_model.optimizer = @Optimizer()
train_model.options = @LoopOptions()
MODEL_DIR = 'model'
LoopOptions.steps = 1
PairedText.train = 'in.jsonl'
PairedText.source = 'en'
PairedText.target = 'fr'
PairedText.batch_size = %BATCH_SIZE
""")
    given = ['train', f'--gin_file={tmp_path}/mine.gin', f'--output={tmp_path}/model']
    assert main([*given, '--batch_size=4']) == 2
    assert 'nowhere' in capsys.readouterr().err
    assert main([*given, '--batch_tokens=4']) == 2
    assert '--gin.BATCH_TOKENS: no such macro' in capsys.readouterr().err


def test_an_interruption_says_what_is_saved(tmp_path, light, monkeypatch, capsys):
    real = jobs.fit

    def stops(*args, **kwargs):
        real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, 'fit', stops)
    assert main(light) == 130
    assert 'interrupted; step 2 is saved: the same command with --resume goes on after it' in capsys.readouterr().err
    assert train._how_to_resume(tmp_path / 'nothing', overwrite=False) == 'nothing was saved yet'


@pytest.mark.parametrize('flag', ['--resume', '--overwrite'])
def test_a_folder_that_no_run_made_is_left_alone(tmp_path, arguments, capsys, flag):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'thesis.tex').write_text('years of work')
    assert main([*arguments, flag]) == 2
    assert 'no training run made it' in capsys.readouterr().err
    assert (tmp_path / 'model' / 'thesis.tex').read_text() == 'years of work'


@pytest.mark.parametrize(
    'extra, message',
    [
        ([], '--checkpoint, --train_data, --output missing; a model is trained from scratch by a gin file'),
        (['--stage=classifier', '--checkpoint=a', '--output=b'], '--train_data missing'),
        (['--gin_file=runs/train.gin', '--stage=exits'], '--stage chooses a gin file, and --gin_file names one'),
        (['--gin_file=runs/train.gin'], 'MODEL_DIR, SOURCE, TARGET, TOKENIZER, TRAIN_DATA are required'),
        (['--gin_file=runs/train.gin', '--resume', '--overwrite'], 'not allowed with argument'),
        (['--batch_size=8', '--batch_tokens=64'], '--batch_tokens: not allowed with argument --batch_size'),
        (['--gin_file=runs/train.gin', '--steps', 'many'], "invalid int value: 'many'"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line_and_exit_code_2(capsys, extra, message):
    assert main(['train', *extra]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count('\n') == 1


@pytest.mark.parametrize(
    'wrong, named',
    [
        ('--gin.TOKENIZERS=3', 'TOKENIZERS'),
        ("--gin.EXIT_WEIGHTS='uniform'", 'EXIT_WEIGHTS'),
        ('--gin.TRAIN_DATA=None', 'TRAIN_DATA'),
        ('--gin.TRAIN_DATA=[]', 'no input files'),
        ('--gin.TOKENIZER=5', 'TOKENIZER'),
        ('--gin.CLIP_NORM=-1', 'clip_norm'),
        ('--gin.BATCH_TOKENS=64', 'batch_size is 8 and batch_tokens is 64; expected one of the two to be None'),
        ('--accumulate=0', 'accumulate is 0'),
        ('--patience=-1', 'patience is -1'),
        ('--learning_rate=nan', '--learning_rate is nan; expected a number'),
        ('--seed=-1', 'seed'),
        (f'--seed={10**20}', 'seed'),
        ('--gin.TransformerConfig.relative_attention_num_buckets=2', 'relative_attention_num_buckets'),
    ],
)
def test_a_configuration_error_is_one_line_and_leaves_no_folder_behind(tmp_path, arguments, capsys, wrong, named):
    assert main([*arguments, wrong]) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and named in line
    assert not (tmp_path / 'model').exists()


def test_overwriting_with_a_mistake_keeps_the_old_model(tmp_path, light, capsys):
    assert main(light) == 0
    before = {path: path.read_bytes() for path in (tmp_path / 'model').rglob('*') if path.is_file()}
    for wrong in (
        f"--gin.TRAIN_DATA='{tmp_path}/trian.jsonl'",
        "--gin.SOURCE='{english}'",
        '--batch_size=1000',
        f"--gin.TOKENIZER='{tmp_path}'",
        "--gin.BEST_METRIC='beauty'",
        '--gin.LABEL_SMOOTHING=1.0',
        '--seed=-1',
    ):
        assert main([*light, '--overwrite', wrong]) == 2
        assert capsys.readouterr().err.count('\n') == 1
        assert {path: path.read_bytes() for path in (tmp_path / 'model').rglob('*') if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {'model', 'tokenizer', 'train.jsonl'}


def test_a_first_run_that_cannot_start_does_not_stand_in_the_way_of_the_next(tmp_path, arguments):
    assert main([*arguments, f"--gin.TRAIN_DATA='{tmp_path}/trian.jsonl'"]) == 2
    assert not (tmp_path / 'model').exists()
    assert train._found(tmp_path / 'model', resume=False, overwrite=False) is False


def test_a_folder_whose_replacement_fails_is_put_back(tmp_path):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'old').write_text('weights')
    with pytest.raises(OSError, match='disk full'), train._replaced(tmp_path / 'model'):
        (tmp_path / 'model').mkdir()
        (tmp_path / 'model' / 'new').write_text('half')
        raise OSError('disk full')
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*')] == ['model', 'model/old']


def test_a_run_is_resumed_only_as_it_was(tmp_path, light, jsonl, capsys):
    assert main(light) == 0
    config = tmp_path / 'model' / 'config.gin'
    before = config.read_text()
    for change, name in (
        ('--learning_rate=0.02', 'LEARNING_RATE is 0.02, and was 0.01'),
        ('--gin.EXIT_WEIGHTS=@uniform', 'EXIT_WEIGHTS is @uniform, and was @proportional_to_layer'),
        ('--gin.Optimizer.b1=0.5', 'Optimizer.b1 is 0.5, and was not set'),
    ):
        assert main([*light, '--resume', '--steps=3', change]) == 2
        line = capsys.readouterr().err
        assert name in line and line.count('\n') == 1 and config.read_text() == before
    with open(jsonl, 'a') as file:
        file.write('{"en": "one more", "fr": "ONE MORE"}\n')
    assert main([*light, '--resume', '--steps=3']) == 2
    assert '--resume: train is not what it was' in capsys.readouterr().err and config.read_text() == before
    jsonl.write_text(''.join(jsonl.read_text().splitlines(keepends=True)[:-1]))
    assert main([*light, '--resume', '--steps=3', '--max_minutes=9', '--gin.SAVE_EVERY=1', '--gin.LoopOptions.keep=3']) == 0
    assert 'TRAIN_STEPS = 3' in config.read_text()


def test_what_the_limits_cut_is_said_and_noted(tmp_path, light, examples, capsys):
    loud = [argument for argument in light if argument != '--quiet']
    assert main([*loud, '--gin.MAX_TARGET_LENGTH=5', '--gin.EVAL_DATA=None']) == 0
    cut = sum(len(example.target) + 1 > 5 for example in examples)
    assert 0 < cut < 24
    assert (
        f'24 examples; cut: 0 sources of more than 8 tokens, {cut} targets of more than 5 tokens\n' in capsys.readouterr().err
    )
    assert json.loads((tmp_path / 'model' / 'inputs.json').read_text())['truncated'] == {'source': 0, 'target': cut}


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path, arguments):
    # The rate must not depend on how many steps there are in all, which differ here.
    arguments = [*arguments, '--gin.SAVE_EVERY=2', '--gin.EVAL_DATA=None', '--gin.WARMUP_STEPS=0']
    command = [sys.executable, '-m', 'calm_jax.cli', *arguments, '--steps=1000000']
    victim = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not saved(tmp_path / 'model') and victim.poll() is None:
        time.sleep(0.05)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL, victim.stderr.read()
    victim.stderr.close()
    steps = max(saved(tmp_path / 'model')) + 3
    assert not (tmp_path / 'model' / 'last').exists()
    assert main([*arguments, f'--steps={steps}', '--resume']) == 0
    assert main([*arguments, f'--steps={steps}', f'--output={tmp_path}/whole']) == 0
    ends = [native.load(tmp_path / run / 'last').params for run in ('model', 'whole')]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert json.loads((tmp_path / 'model' / 'metrics.jsonl').read_text().splitlines()[-1])['step'] == steps


def saved(model_dir):
    """Steps of the complete checkpoints to resume from."""
    return [int(path.name) for path in (model_dir / 'state').glob('*') if path.name.isdigit()]
