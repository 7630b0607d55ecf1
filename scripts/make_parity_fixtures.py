"""Makes tests/fixtures/parity: small random published models and what the reference implementation computes with them.

    python scripts/make_parity_fixtures.py [--output tests/fixtures/parity]

Needs torch and transformers; the tests that read the fixtures need neither. Every model directory holds what
`save_pretrained` writes, a tokenizer, and reference.npz:

    source [B, S]            token ids, rows of unequal length, padded with 0 on the right
    target [B, T]            decoder input ids, the first of each row the start id
    encoded [B, S, D]        the encoder's output
    states [L, B, T, D]      after each decoder layer, before the final norm
    logits [B, T, V]
    greedy [B, 64]           64 greedy tokens, end-of-sequence being a token like any other

Computed in float64, whatever the type that the weights are stored in, so that a difference of float32 results is their own
error, and kept in float32. Each model takes the first seed at which no greedy step is a
near tie and the greedy tokens vary: parity of a model that repeats one token would say little.
"""

import argparse
import pathlib
import shutil

import numpy as np
import torch
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from calm_jax.data.tokenizers import train_sentencepiece

GREEDY_TOKENS = 64

# name → (configuration, stored type, largest shard, lengths of the source rows). Between them: every supported
# feed-forward but one, heads that do not add up to the width, fewer buckets and a shorter distance than usual, sources and
# targets longer than the distance, unequal depths, one file and several.
MODELS = {
    'gated_gelu': (T5Config(
        vocab_size=128, d_model=32, d_kv=8, num_heads=4, d_ff=32, num_layers=3, num_decoder_layers=3,
        feed_forward_proj='gated-gelu', tie_word_embeddings=False), torch.float32, '1GB', (37, 48, 5)),
    'odd_shapes': (T5Config(
        vocab_size=101, d_model=24, d_kv=10, num_heads=3, d_ff=28, num_layers=2, num_decoder_layers=4,
        relative_attention_num_buckets=12, relative_attention_max_distance=33, layer_norm_epsilon=1e-5,
        feed_forward_proj='gated-silu', tie_word_embeddings=False), torch.float16, '20KB', (70, 9, 34)),
    'plain_relu': (T5Config(
        vocab_size=96, d_model=16, d_kv=8, num_heads=2, d_ff=48, num_layers=1, num_decoder_layers=2,
        feed_forward_proj='relu', tie_word_embeddings=False), torch.bfloat16, '1GB', (12, 20, 40)),
}

TEXTS = (
    'the quick brown fox jumps over the lazy dog', 'a model that answers early says the same in fewer layers',
    'every token takes as many layers as it needs', 'half of the words are easy and the others take all of it',
    'what is skipped is written down and filled in later', 'thresholds are chosen on one set and tested on another',
    'jumping foxes and sleeping dogs', 'layers upon layers, row by row, word by word', 'is it lazy to wait? not at all!')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', default=pathlib.Path(__file__).parents[1] / 'tests/fixtures/parity', type=pathlib.Path)
    args = parser.parse_args()
    for name, model in MODELS.items():
        directory = args.output / name
        seed = next(seed for seed in range(100) if make(directory, *model, seed))
        print(f'{directory}: seed {seed}, {sum(path.stat().st_size for path in directory.iterdir()) / 1e3:.0f} kB')


def make(directory, config, dtype, shard, lengths, seed):
    """Writes one model directory with its reference.npz; returns whether its greedy tokens are a good test."""
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(seed)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    randomise(model)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    train_sentencepiece(TEXTS, 64, directory / 'spiece.model', byte_fallback=False)
    model = T5ForConditionalGeneration.from_pretrained(directory, dtype=torch.float64).eval()
    arrays, good = reference(model, lengths, seed)
    np.savez_compressed(directory / 'reference.npz', **arrays)
    return good


def randomise(model):
    """Weights at which every part matters: sharp attention, position biases of size 1, norms with their own scales, a head
    that does not follow the embedding."""
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-1]
        if 'layer_norm' in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif 'relative_attention_bias' in name or name == 'shared.weight':
            torch.nn.init.normal_(parameter)
        elif '.q.' in name:
            torch.nn.init.normal_(parameter, std=1.5 * (fan_in * model.config.d_kv) ** -0.5)
        else:
            torch.nn.init.normal_(parameter, std=1.5 * fan_in**-0.5)


@torch.no_grad()
def reference(model, lengths, seed):
    """What the reference implementation computes, as numpy arrays by name; and whether it is a good test."""
    generator = torch.Generator().manual_seed(seed + 1)
    vocab = model.config.vocab_size
    source = torch.zeros((len(lengths), max(lengths)), dtype=torch.long)
    for row, length in enumerate(lengths):
        source[row, :length] = torch.randint(2, vocab, (length,), generator=generator)
    target = torch.randint(2, vocab, (len(lengths), 24), generator=generator)
    target[:, 0] = model.config.decoder_start_token_id
    mask = (source != 0).long()

    states = []
    hooks = [block.register_forward_hook(lambda module, inputs, output: states.append(output[0]))
             for block in model.decoder.block]
    output = model(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False)
    for hook in hooks:
        hook.remove()
    settings = GenerationConfig(
        max_new_tokens=GREEDY_TOKENS, use_cache=False, do_sample=False, num_beams=1, eos_token_id=None, pad_token_id=0,
        decoder_start_token_id=0, output_scores=True, return_dict_in_generate=True)
    model.generation_config.eos_token_id = None
    generated = model.generate(input_ids=source, attention_mask=mask, generation_config=settings)
    arrays = {
        'source': source.numpy().astype(np.int32), 'target': target.numpy().astype(np.int32),
        'encoded': output.encoder_last_hidden_state.float().numpy(), 'states': torch.stack(states).float().numpy(),
        'logits': output.logits.float().numpy(), 'greedy': generated.sequences[:, 1:].numpy().astype(np.int32)}
    return arrays, clear_and_varied(generated)


def clear_and_varied(generated):
    """Whether every greedy step wins by a margin that rounding cannot turn, and every row has at least 12 different tokens."""
    top = torch.stack(generated.scores, dim=1).topk(2).values
    distinct = min(len(set(row.tolist())) for row in generated.sequences[:, 1:])
    return (top[..., 0] - top[..., 1]).min().item() > 2e-3 and distinct >= 12


if __name__ == '__main__':
    main()
