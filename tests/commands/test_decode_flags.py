"""Flags that decide a decode: what would change nothing is refused, by the name of the flag."""

import pytest

from calm_jax.cli import main


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--top_k', '5'], '--top_k changes nothing without --temperature'),
        (['--top_p', '0.5'], '--top_p changes nothing without --temperature'),
        (['--min_exit_layer', '2'], '--min_exit_layer changes nothing without --measure'),
        (['--propagation', 'eager'], '--propagation changes nothing without --measure'),
        (['--threshold_form', 'decaying'], '--threshold_form changes nothing without --measure'),
        (
            ['--measure', 'state', '--threshold', '0.5', '--decay_temperature', '2'],
            '--decay_temperature changes nothing without a decaying --threshold_form',
        ),
        (['--measure', 'state', '--threshold', '0.5', '--min_exit_layer', '9'], 'the decoder has 3 layers'),
        (["--gin.Settings.dtype='bfloat16'"], 'say --dtype'),
        (['--measure', 'calm_jax.depth.confidence:Softmaxgap', '--threshold', '0.5'], 'cannot be imported'),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(checkpoint, tmp_path, data, capsys, flags, message):
    output = tmp_path / 'out.jsonl'
    assert (
        main(['generate', '--checkpoint', checkpoint, '--input', data, '--source_field', 'en', '--output', str(output), *flags])
        == 2
    )
    line = capsys.readouterr().err
    assert message in line and line.count('\n') == 1
    assert not list(tmp_path.iterdir())
