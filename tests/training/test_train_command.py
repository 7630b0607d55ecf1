import json

import pytest

from calm_jax.checkpoints import native
from calm_jax.cli import main


@pytest.fixture
def arguments(tmp_path, tokenizer, jsonl):
    """Flags of a run that takes a moment."""
    tokenizer.save(tmp_path / 'tokenizer')
    return [
        'train', '--gin_file=models/tiny.gin', '--gin_file=runs/train.gin', f"--gin.MODEL_DIR='{tmp_path}/model'",
        f"--gin.TRAIN_DATA='{jsonl}'", f"--gin.EVAL_DATA='{jsonl}'", "--gin.SOURCE='{en}'", '--gin.TARGET="fr"',
        f"--gin.TOKENIZER='{tmp_path}/tokenizer'", '--gin.MAX_SOURCE_LENGTH=8', '--gin.MAX_TARGET_LENGTH=8',
        '--gin.TransformerConfig.num_encoder_layers=1', '--gin.SAMPLED_EXITS=True',
        '--steps=2', '--batch_size=8', '--learning_rate=0.01', '--quiet',
    ]


def test_both_stages_run_as_a_user_would_and_leave_loadable_checkpoints(tmp_path, arguments, jsonl, capsys):
    assert main(arguments) == 0
    model_dir = tmp_path / 'model'
    assert {path.name for path in model_dir.iterdir()} == {'best', 'last', 'state', 'metrics.jsonl', 'config.gin'}
    written = (model_dir / 'config.gin').read_text()
    assert 'TRAIN_STEPS = 2' in written and 'BATCH_SIZE = 8' in written and 'LEARNING_RATE = 0.01' in written
    first = native.load(model_dir / 'best')
    assert first.config.num_encoder_layers == 1 and first.config.num_decoder_layers == 2
    assert first.generation['max_new_tokens'] == 8

    assert main([
        'train', '--gin_file=runs/classifier.gin', f'--model_dir={tmp_path}/classifier',
        f"--gin.CHECKPOINT='{model_dir}/best'", f"--gin.TRAIN_DATA='{jsonl}'", f"--gin.EVAL_DATA='{jsonl}'",
        "--gin.SOURCE='{en}'", "--gin.TARGET='fr'", '--gin.MAX_SOURCE_LENGTH=8', '--gin.MAX_TARGET_LENGTH=8',
        '--steps=200', '--max_minutes=0.000001', '--batch_size=8', '--quiet']) == 0
    second = native.load(tmp_path / 'classifier' / 'best')
    assert native.fingerprint(second.params) == native.fingerprint(first.params)
    assert second.heads['exit_classifier']['bias'].shape == (1,)
    evaluation = json.loads((tmp_path / 'classifier' / 'metrics.jsonl').read_text().splitlines()[-1])['eval']
    assert len(evaluation['dont_exit_f1_by_layer']) == 1
    assert capsys.readouterr().err == ''


def test_an_existing_model_folder_is_never_written_by_accident(tmp_path, arguments, capsys):
    model_dir = tmp_path / 'model'
    assert main(arguments) == 0
    log = (model_dir / 'metrics.jsonl').read_text()
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and '--resume' in line and '--overwrite' in line and str(model_dir) in line
    assert (model_dir / 'metrics.jsonl').read_text() == log
    assert main([*arguments, '--steps=3', '--resume']) == 0
    assert [json.loads(text)['step'] for text in (model_dir / 'metrics.jsonl').read_text().splitlines()] == [2, 2, 3, 3]
    assert main([*arguments, '--overwrite']) == 0
    assert [json.loads(text)['step'] for text in (model_dir / 'metrics.jsonl').read_text().splitlines()] == [2, 2]


@pytest.mark.parametrize('flag', ['--resume', '--overwrite'])
def test_a_folder_that_no_run_made_is_left_alone(tmp_path, arguments, capsys, flag):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'thesis.tex').write_text('years of work')
    assert main([*arguments, flag]) == 2
    assert 'no training run made it' in capsys.readouterr().err
    assert (tmp_path / 'model' / 'thesis.tex').read_text() == 'years of work'


@pytest.mark.parametrize('extra, message', [
    ([], 'calm train needs a gin file, such as --gin_file=runs/train.gin'),
    (['--gin_file=runs/train.gin'], 'MODEL_DIR, SOURCE, TARGET, TOKENIZER, TRAIN_DATA are required'),
    (['--gin_file=runs/train.gin', '--resume', '--overwrite'], 'not allowed with argument'),
    (['--gin_file=runs/train.gin', '--step', 'many'], "invalid int value: 'many'"),
])
def test_what_a_user_can_get_wrong_is_one_line_and_exit_code_2(capsys, extra, message):
    assert main(['train', *extra]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count('\n') == 1


def test_a_configuration_error_leaves_no_folder_behind(tmp_path, arguments):
    assert main([*arguments, '--gin.TOKENIZERS=3']) == 2
    assert not (tmp_path / 'model').exists()
