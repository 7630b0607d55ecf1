"""Every family from a directory that the reference implementation wrote: import, generate, calibrate, export."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from calm_jax.calibration import Certificate
from calm_jax.cli import main

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
NAMES = ('t5_1_0', 'longt5_local', 'bart', 'gpt2', 'opt_post_norm', 'llama_3')
FLYING = ('longt5_local', 'gpt2')  # in slots that are refilled; the others in one batch, as their flights have a law
TEXTS = ('the quick brown fox', 'layers upon layers', 'every token takes as many layers as it needs', 'is it lazy?', 'no')


@pytest.mark.parametrize('name', NAMES)
def test_import_generate_calibrate_and_decode_within_the_certificate(name, tmp_path):
    data, model, out = tmp_path / 'data.jsonl', str(tmp_path / 'model'), tmp_path / 'out.jsonl'
    batch_size = '10' if name in FLYING else '20'
    data.write_text(''.join(json.dumps({'text': f'{text} {i}'}) + '\n' for i, text in enumerate(TEXTS * 4)))
    assert main(['import', str(FIXTURES / name), '--output', model, '--quiet']) == 0
    common = [
        '--checkpoint',
        model,
        '--source_field',
        'text',
        '--max_new_tokens',
        '6',
        '--max_source_length',
        '64',
        '--batch_size',
        batch_size,
        '--quiet',
    ]
    assert (
        main(
            [
                'calibrate',
                *common,
                '--data',
                str(data),
                '--measure',
                'softmax_gap',
                '--grid',
                '0.9,0.5,0.1',
                '--metric',
                'token_f1',
                '--tolerance',
                '0.6',
                '--records',
                str(tmp_path / 'records'),
                '--output',
                str(tmp_path / 'c.json'),
            ]
        )
        == 0
    )
    certificate = Certificate.load(tmp_path / 'c.json')
    assert 0 <= certificate.threshold <= 1 and certificate.grid
    assert (
        main(
            [
                'generate',
                '--checkpoint',
                model,
                '--source_field',
                'text',
                '--input',
                str(data),
                '--output',
                str(out),
                '--certificate',
                str(tmp_path / 'c.json'),
                '--batch_size',
                batch_size,
                '--quiet',
            ]
        )
        == 0
    )
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 20 and all(len(each['tokens']) == len(each['exit_layers']) >= 1 for each in records)


@pytest.mark.parametrize('name', sorted(path.name for path in FIXTURES.iterdir()))
def test_what_is_exported_holds_the_tensors_of_what_was_imported(name, tmp_path):
    model, out = str(tmp_path / 'model'), tmp_path / 'out'
    stored = [
        file for path in sorted((FIXTURES / name).glob('*.safetensors')) for file in safetensors.numpy.load_file(path).items()
    ]
    dtype = {'float16': 'float16', 'bfloat16': 'bfloat16'}.get(str(stored[0][1].dtype), 'float32')
    assert main(['import', str(FIXTURES / name), '--output', model, '--dtype', dtype, '--quiet']) == 0
    assert main(['export', model, '--output', str(out), '--quiet']) == 0
    written = safetensors.numpy.load_file(out / 'model.safetensors')
    assert sorted(written) == sorted(name for name, _ in stored)
    for key, array in stored:
        np.testing.assert_array_equal(written[key], array, err_msg=key)


@pytest.mark.parametrize('name', ['bart', 'gpt2', 'opt_post_norm', 'llama_3', 't5_1_0', 'longt5_global'])
def test_transformers_loads_what_is_exported_and_computes_the_same(name, tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch')
    transformers = pytest.importorskip('transformers')
    model, out = str(tmp_path / 'model'), str(tmp_path / 'out')
    assert main(['import', str(FIXTURES / name), '--output', model, '--quiet']) == 0
    assert main(['export', model, '--output', out, '--quiet']) == 0
    kind = (
        transformers.AutoModelForSeq2SeqLM if name in ('bart', 't5_1_0', 'longt5_global') else transformers.AutoModelForCausalLM
    )
    loaded = kind.from_pretrained(out, dtype=torch.float64).eval()
    reference = np.load(FIXTURES / name / 'reference.npz')
    inputs = {
        'input_ids': torch.as_tensor(reference['source'].astype(np.int64)),
        'attention_mask': torch.as_tensor(reference['mask'].astype(np.int64)),
    }
    if 'target' in reference:
        inputs['decoder_input_ids'] = torch.as_tensor(reference['target'].astype(np.int64))
    else:
        inputs['position_ids'] = (inputs['attention_mask'].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = loaded(**inputs, use_cache=False).logits.numpy()
    present = reference['mask'] if 'target' not in reference else np.ones(reference['target'].shape, bool)
    np.testing.assert_allclose(logits[present], reference['logits'][present], atol=1e-4)
