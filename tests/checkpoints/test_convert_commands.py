"""`calm import` and `calm export`, as a user runs them."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from calm_jax import cli
from calm_jax.checkpoints import huggingface, native, trees
from calm_jax.data.tokenizers import ByteTokenizer


def test_import_then_export_gives_back_the_published_weights(published, tmp_path, capsys):
    source, native_dir, back = published / 'gated_gelu', tmp_path / 'native', tmp_path / 'back'
    assert cli.main(['import', str(source), '--output', str(native_dir)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and '3 + 3 layers' in out[0] and 'vocabulary 128' in out[0] and str(native_dir) in out[1]
    assert cli.main(['export', str(native_dir), '--output', str(back)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    expected, found = huggingface.read(source), huggingface.read(back)
    assert found.config == expected.config == native.load(native_dir).config
    assert native.fingerprint(found.params) == native.fingerprint(expected.params)


def test_the_stored_type_can_be_chosen_and_heads_stand_beside_the_export(published, saved, tmp_path, capsys):
    assert cli.main(['import', str(published / 'odd_shapes'), '--output', str(tmp_path / 'a'), '--dtype', 'bfloat16']) == 0
    assert '(bfloat16)' in capsys.readouterr().out
    assert cli.main(['export', str(saved), '--output', str(tmp_path / 'b'), '--dtype', 'float16']) == 0
    assert 'its heads beside it (exit_classifier)' in capsys.readouterr().out
    found, expected = huggingface.read(tmp_path / 'b', dtype=None), native.load(saved).heads
    assert found.params['decoder']['decoder_norm']['scale'].dtype == 'float16'
    assert native.fingerprint(found.heads) == native.fingerprint(expected)
    (path,) = (tmp_path / 'b').glob('calm_heads*')
    path.write_bytes(path.read_bytes()[:-2])
    assert cli.main(['import', str(tmp_path / 'b'), '--output', str(tmp_path / 'c'), '--quiet']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'calm_heads.safetensors' in line and 'export the checkpoint again' in line


def test_a_generation_setting_that_cannot_be_used_is_read_over_where_that_is_asked_for(published, tmp_path, capsys):
    source = tmp_path / 'source'
    shutil.copytree(published / 'plain_relu', source)
    settings = source / 'generation_config.json'
    settings.write_text(json.dumps({**json.loads(settings.read_text()), 'max_time': 3, 'penalty_alpha': 0.6}))
    flags = ['import', str(source), '--output', str(tmp_path / 'model'), '--quiet']
    assert cli.main(flags) == 2 and '--ignore_attributes max_time' in capsys.readouterr().err
    assert cli.main([*flags, '--ignore_attributes', 'max_time']) == 2 and 'penalty_alpha' in capsys.readouterr().err
    assert cli.main([*flags, '--ignore_attributes', 'max_time,penalty_alpha']) == 0
    error = capsys.readouterr().err
    assert 'max_time 3: read over, as was asked' in error and 'penalty_alpha 0.6: read over' in error
    found, expected = (native.load(tmp_path / 'model'), huggingface.read(published / 'plain_relu'))
    assert found.config == expected.config and found.generation == expected.generation


def test_quiet_prints_nothing_and_overwrite_replaces(published, tmp_path, capsys):
    arguments = ['import', str(published / 'plain_relu'), '--output', str(tmp_path / 'model'), '--quiet']
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 2
    assert 'exists and is not empty' in capsys.readouterr().err
    assert cli.main([*arguments, '--overwrite']) == 0
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    'command, source, message',
    (
        ('import', 'nothing', 'no such directory'),
        ('import', 'empty', 'format not recognised: found nothing'),
        ('import', 'other', 'format not recognised: found config.json, notes.txt'),
        ('import', 'native', 'already a native checkpoint'),
        ('export', 'nothing', 'does not exist'),
        ('export', 'published', 'run `calm import`'),
    ),
)
def test_a_directory_of_another_kind_is_one_line_and_exit_code_2(published, saved, tmp_path, capsys, command, source, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'config.json').write_text(json.dumps([1]))
    (tmp_path / 'other' / 'notes.txt').touch()
    directory = {'native': saved, 'published': published / 'plain_relu'}.get(source, tmp_path / source)
    assert cli.main([command, str(directory), '--output', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_each_command_runs_from_a_shell(published, tmp_path):
    for arguments in (
        ['import', published / 'plain_relu', '--output', tmp_path / 'a'],
        ['export', tmp_path / 'a', '--output', tmp_path / 'b'],
    ):
        done = subprocess.run([sys.executable, '-m', 'calm_jax.cli', *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 2 and done.stderr == ''


def peak_bytes(*command):
    """The most memory that a process of its own held."""
    measure = (
        'import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); '
        'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'
    )
    return 1024 * int(subprocess.run([sys.executable, '-c', measure, *command], check=True, capture_output=True).stdout)


def test_import_holds_a_part_of_a_model_at_a_time(published, tmp_path):
    config = dataclasses.replace(
        huggingface.read(published / 'plain_relu').config,
        vocab_size=4096,
        emb_dim=512,
        mlp_dim=4096,
        num_encoder_layers=8,
        num_decoder_layers=8,
    )
    rng = np.random.default_rng(0)
    params = {}
    for path, shape in native.parameter_shapes(config).items():
        trees.put(params, path.split('/'), rng.standard_normal(shape, np.float32))
    huggingface.write(tmp_path / 'model', native.Checkpoint(config, params, ByteTokenizer()))
    model = sum(array.nbytes for _, array in trees.flatten(params))
    command = sys.executable, '-m', 'calm_jax.cli', 'import'
    small = peak_bytes(*command, str(published / 'plain_relu'), '--output', str(tmp_path / 'small'), '--quiet')
    large = peak_bytes(*command, str(tmp_path / 'model'), '--output', str(tmp_path / 'large'), '--quiet')
    assert model > 250 << 20
    assert large - small < 1.3 * model
