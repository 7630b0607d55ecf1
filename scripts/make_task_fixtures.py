"""Makes tests/fixtures/tasks: models with a head of a task as the reference implementation publishes them, and what it scores.

    python scripts/make_task_fixtures.py [--output tests/fixtures/tasks]

Needs torch and transformers; the tests that read the fixtures need neither.

<model>_labels/, <model>_spans/     a published directory: one layer, or one and one, of random weights
<model>_…/reference.npz             tokens [B, S], how many of each row are there, lengths [B], and in float64 the scores of
                                    each row alone: of labels [B, 3], of first and last token [B, S, 2]
"""

import argparse
import functools
import pathlib
import shutil

import numpy as np
import torch
import transformers
from make_parity_fixtures import byte_pairs, randomise, sentencepieces

LABELS = {0: 'contradiction', 1: 'neutral', 2: 'entailment'}
LENGTHS = (13, 9)
SMALL = {'d_model': 16, 'd_kv': 8, 'num_heads': 2, 'd_ff': 24, 'num_layers': 1, 'num_decoder_layers': 1}
STACKS = {f'{stack}_{name}': value for stack in ('encoder', 'decoder') for name, value in (('layers', 1), ('ffn_dim', 24))}
HEADS = {'encoder_attention_heads': 2, 'decoder_attention_heads': 2, 'd_model': 16, 'max_position_embeddings': 32}
BYTES = functools.partial(byte_pairs, special=('<s>', '<pad>', '</s>', '<unk>', '<mask>'))
MODELS = {
    't5': ('T5', transformers.T5Config(vocab_size=96, feed_forward_proj='gated-gelu', **SMALL), sentencepieces),
    'umt5': ('UMT5', transformers.UMT5Config(vocab_size=96, **SMALL), sentencepieces),
    'bart': ('Bart', transformers.BartConfig(vocab_size=300, **STACKS, **HEADS), BYTES),
    'mbart': ('MBart', transformers.MBartConfig(vocab_size=300, **STACKS, **HEADS), BYTES),
    'gpt2': (
        'GPT2',
        transformers.GPT2Config(
            vocab_size=300, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=1
        ),
        functools.partial(byte_pairs, special=['<|endoftext|>', '<pad>']),
    ),
    'opt': (
        'OPT',
        transformers.OPTConfig(
            vocab_size=300,
            hidden_size=16,
            num_hidden_layers=2,
            ffn_dim=24,
            max_position_embeddings=32,
            num_attention_heads=2,
            word_embed_proj_dim=12,
        ),
        BYTES,
    ),
    'llama': (
        'Llama',
        transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            pad_token_id=1,
            bos_token_id=0,
        ),
        BYTES,
    ),
}
TASKS = {'labels': 'ForSequenceClassification', 'spans': 'ForQuestionAnswering'}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', default=pathlib.Path(__file__).parents[1] / 'tests/fixtures/tasks', type=pathlib.Path)
    args = parser.parse_args()
    for name, (family, config, tokenizer) in MODELS.items():
        for task, ending in TASKS.items():
            directory = args.output / f'{name}_{task}'
            make(directory, getattr(transformers, family + ending), config, task, tokenizer)
            print(f'{directory}: {sum(path.stat().st_size for path in directory.iterdir()) / 1e3:.0f} kB')


@torch.no_grad()
def make(directory, architecture, config, task, tokenizer):
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(0)
    config = type(config).from_dict(config.to_dict())
    if task == 'labels':
        config.id2label, config.label2id = LABELS, {name: number for number, name in LABELS.items()}
    if config.is_encoder_decoder and getattr(config, 'decoder_start_token_id', None) is None:
        config.decoder_start_token_id = 0
    model = architecture(config)
    randomise(model, False, 1.0)
    model.save_pretrained(directory)
    tokenizer(directory)
    model = architecture.from_pretrained(directory, dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros((len(LENGTHS), max(LENGTHS)), dtype=torch.long)
    shape = (len(LENGTHS), 3) if task == 'labels' else (*tokens.shape, 2)
    scores = np.zeros(shape)
    for row, length in enumerate(LENGTHS):
        text = torch.randint(5, config.vocab_size, (length,), generator=generator)
        if config.is_encoder_decoder:
            text[-1] = config.eos_token_id  # what is read off stands there
        tokens[row, :length] = text
        output = model(input_ids=text[None])
        if task == 'labels':
            scores[row] = output.logits[0].numpy()
        else:
            scores[row, :length] = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1).numpy()
    np.savez_compressed(
        directory / 'reference.npz', tokens=tokens.numpy().astype(np.int32), lengths=np.array(LENGTHS), scores=scores
    )


if __name__ == '__main__':
    main()
