"""Stages as functions: what the commands write, from Python."""

import json
import pathlib
import subprocess
import sys

import pytest

import calm_jax as calm
from calm_jax.data.tokenizers import ByteTokenizer
from calm_jax.models.config import TransformerConfig

FIXTURES = pathlib.Path(__file__).parent / 'fixtures' / 'parity'


def tiny(**vocabulary):
    return TransformerConfig(
        emb_dim=8, num_heads=1, head_dim=8, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=2, **vocabulary
    )


def test_a_model_is_trained_then_its_classifier_and_both_decode(data, tmp_path):
    ByteTokenizer().save(tmp_path / 'tokenizer')
    pairs = calm.PairedText(data, 'en', 'fr', evaluation=data, batch_size=8, max_source_length=16, max_target_length=8)
    options = calm.LoopOptions(steps=2)
    model = calm.train(tmp_path / 'a', pairs, options, tokenizer=tmp_path / 'tokenizer', config=tiny)
    assert model.generate('a cat').tokens and model.limits() == (8, 16) and model.heads is None
    with pytest.raises(FileExistsError, match='pass resume=True'):
        calm.train(tmp_path / 'a', pairs, options, checkpoint=tmp_path / 'a' / 'best')
    again = calm.train(tmp_path / 'a', pairs, options, tokenizer=tmp_path / 'tokenizer', config=tiny, resume=True)
    assert again.fingerprints == model.fingerprints
    second = calm.train_exit_classifier(tmp_path / 'b', pairs, options, checkpoint=tmp_path / 'a' / 'best')
    assert second.fingerprints['parameters'] == model.fingerprints['parameters']
    measure = calm.Classifier(**second.heads['exit_classifier'])
    assert second.generate('a cat', exit=calm.Exit(measure, 0.5)).exit_layers


def test_a_published_model_is_imported(tmp_path):
    calm.import_checkpoint(FIXTURES / 't5_1_0', tmp_path / 'model')
    assert calm.load(tmp_path / 'model').generate('the fox', limits=calm.Limits(max_new_tokens=3)).tokens
    with pytest.raises(ValueError, match='already a native checkpoint'):
        calm.import_checkpoint(tmp_path / 'model', tmp_path / 'other')
    with pytest.raises(FileExistsError):
        calm.import_checkpoint(FIXTURES / 't5_1_0', tmp_path / 'model')


def test_predictions_are_scored_against_one_reference_or_several():
    scores = calm.evaluate(['a cat sat here', 'a dog'], ['a cat sat here', ['dogs', 'a dog']], ['accuracy', 'bleu'])
    assert scores['accuracy'] == 1.0 and scores['bleu'] == pytest.approx(100)
    with pytest.raises(ValueError, match='did you mean accuracy'):
        calm.evaluate(['a'], ['a'], ['acuracy'])
    with pytest.raises(ValueError):
        calm.evaluate(['a', 'b'], ['a'], ['accuracy'])


def test_a_report_is_written_from_a_folder_of_results(tmp_path):
    table = {'title': 'scores', 'columns': [{'key': 'x', 'name': 'x', 'unit': ''}], 'rows': [{'x': 1.0}], 'provenance': {}}
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'results.json').write_text(json.dumps(table))
    written = calm.report(tmp_path / 'run', tmp_path / 'page.html')
    assert written.page == tmp_path / 'page.html' and 'scores' in written.page.read_text()
    with pytest.raises(FileExistsError):
        calm.report(tmp_path / 'run', tmp_path / 'page.html')


def test_compiled_programs_are_kept_for_the_next_process(checkpoint, tmp_path):
    code = (
        'import sys, jax, calm_jax as calm; folder = calm.use_compilation_cache(sys.argv[1]); '
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0); "
        "calm.load(sys.argv[2]).generate('a cat'); print(folder)"
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'kept'), checkpoint]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == str(tmp_path / 'kept') and any('generate' in path.name for path in (tmp_path / 'kept').iterdir())
