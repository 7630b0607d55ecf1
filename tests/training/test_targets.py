"""Models that tell languages apart: what sources and targets begin and end with, and the loss, are those of transformers."""

import json
import os

import jax
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface
from calm_jax.data.tokenizers import read_published
from calm_jax.training.jobs import PairedText
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.train_loop import evaluate
from tests.data.test_published_tokenizers import KINDS, write

SOURCES, TARGETS = ('A man walks outside.', 'Two women'), ('Une fille mange une pomme.', 'Ein Mädchen läuft')


@pytest.fixture(scope='module', params=['mbart', 'mbart-50'])
def taught(request, tmp_path_factory):
    """(the checkpoint as it is read, batches for it, transformers' own ids and loss), of a tiny model into Romanian."""
    os.environ['TRANSFORMERS_VERBOSITY'] = 'error'
    torch = pytest.importorskip('torch', reason='needs torch')
    transformers = pytest.importorskip('transformers')
    folder = write(tmp_path_factory.mktemp('targets') / 'model', *KINDS[request.param][1:])
    (folder / 'config.json').write_text(json.dumps({'model_type': 'mbart'}))
    reader = transformers.AutoTokenizer.from_pretrained(folder, tgt_lang='ro_RO')
    language = reader.convert_tokens_to_ids('ro_RO')
    starts, forced = {'mbart': (language, None), 'mbart-50': (2, language)}[request.param]
    torch.manual_seed(0)
    sizes = {'d_model': 16, **dict.fromkeys(('encoder_layers', 'decoder_layers'), 1)}
    sizes |= {
        f'{stack}_{name}': size for stack in ('encoder', 'decoder') for name, size in (('attention_heads', 2), ('ffn_dim', 24))
    }
    model = transformers.MBartForConditionalGeneration(
        transformers.MBartConfig(vocab_size=128, max_position_embeddings=64, decoder_start_token_id=starts, **sizes)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    model.generation_config.forced_bos_token_id = forced
    model.save_pretrained(folder)
    ids = reader(list(SOURCES), text_target=list(TARGETS), padding=True, return_tensors='pt')
    labels = ids.labels.masked_fill(ids.labels == 1, -100)
    with torch.no_grad():
        loss = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, labels=labels).loss.item()
    records = folder / 'records.jsonl'
    records.write_text(''.join(json.dumps({'s': s, 't': t}) + '\n' for s, t in zip(SOURCES, TARGETS)))
    data = PairedText(str(records), 's', 't', str(records), batch_size=2, max_source_length=64, max_target_length=64)
    checkpoint = huggingface.read(folder)
    return checkpoint, data, {'source': ids.input_ids.numpy(), 'labels': labels.numpy(), 'loss': loss}


def test_a_source_and_a_target_are_those_of_transformers_and_the_last_id_of_a_target_comes_around_to_the_front(taught):
    checkpoint, data, reference = taught
    _, (batch,) = data.batches(checkpoint.tokenizer, checkpoint.config, generation=checkpoint.generation)
    for name, ids in (('encoder_input_tokens', reference['source']), ('decoder_target_tokens', reference['labels'])):
        expected = [[each for each in row if each not in (1, -100)] for row in ids.tolist()]
        assert sorted([[each for each in row if each != 1] for row in batch[name].tolist()]) == sorted(expected)
    for inputs, targets, weights in zip(
        *(batch[f'decoder_{name}'] for name in ('input_tokens', 'target_tokens', 'loss_weights'))
    ):
        count = int(weights.sum())
        assert inputs[:count].tolist() == [targets[count - 1], *targets[: count - 1]]


def test_the_loss_is_that_of_transformers(taught):
    checkpoint, data, reference = taught
    config, params, tokenizer, _, generation, _ = checkpoint
    _, batches = data.batches(tokenizer, config, generation=generation)
    stage = multi_exit_stage(config, params, tokenizer)
    report = evaluate(stage, jax.jit(stage.measure), params, {}, batches)
    np.testing.assert_allclose(report['nll'], reference['loss'], rtol=1e-5)


def test_a_decode_that_starts_from_no_language_is_refused(config, tmp_path):
    tokenizer = read_published(write(tmp_path / 'model', *KINDS['mbart'][1:]))
    with pytest.raises(ValueError, match='decoding starts from id 0, which is no language; expected that of the targets'):
        PairedText('none.jsonl', 's', 't').batches(tokenizer, config)
