"""Makes tests/fixtures/parity: small random published models and what the reference implementation computes with them.

    python scripts/make_parity_fixtures.py [--output tests/fixtures/parity] [--only NAME]

Needs torch and transformers; the tests that read the fixtures need neither. Every model directory holds what
`save_pretrained` writes, a tokenizer, and reference.npz:

    source [B, S]            token ids of the source, rows of unequal length, 0 behind them; of a decoder-only model the prompt,
                             0 before it
    mask [B, S]              which of them are there
    target [B, T]            decoder input ids, the first of each row the start id; not of a decoder-only model
    encoded [B, S, D]        the encoder's output; not of a decoder-only model
    states [L, B, T, D]      after each decoder layer, before the final norm; of a decoder-only model at the prompt's positions
    logits [B, T, V]
    greedy [B, 64]           64 greedy tokens, end-of-sequence being a token like any other
    beam_<name> [B, 40]      beam search under the settings of that name (BEAMS), 0 after the end; some models

Computed in float64, whatever the type that the weights are stored in, so that a difference of float32 results is their own
error, and kept in float32. Each model takes the first seed at which no greedy step is a
near tie and the greedy tokens vary: parity of a model that repeats one token would say little.
"""

import argparse
import functools
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LongT5Config,
    LongT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from calm_jax.data.tokenizers import train_sentencepiece

GREEDY_TOKENS = 64
BEAM_TOKENS = 40
# Those of BART's published summarisers; and others that end by other rules.
BEAMS = {
    'bart': {
        'num_beams': 4,
        'length_penalty': 2.0,
        'no_repeat_ngram_size': 3,
        'min_length': 12,
        'early_stopping': True,
        'forced_bos_token_id': 0,
        'forced_eos_token_id': 2,
    },
    'short': {'num_beams': 3, 'length_penalty': 0.6, 'early_stopping': False},
    'never': {'num_beams': 2, 'length_penalty': 1.0, 'early_stopping': 'never', 'no_repeat_ngram_size': 2},
}


class Fixture(NamedTuple):
    """A model to make. layers: where its decoder layers are; tokenizer: makes the files beside it; untied: a T5 with a head
    of its own, which the reference only builds when told; scale: of the spread of its weights, at which tokens vary;
    beams: of BEAMS."""

    config: Any
    architecture: type
    layers: str
    tokenizer: Any
    lengths: tuple[int, ...]
    dtype: Any = torch.float32
    shard: str = '1GB'
    untied: bool = False
    scale: float = 1.5
    beams: tuple[str, ...] = ()


def sentencepieces(directory):
    train_sentencepiece(TEXTS, 64, directory / 'spiece.model', byte_fallback=False)


def byte_pairs(directory, special=('<s>', '<pad>', '</s>', '<unk>', '<mask>')):
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=290, show_progress=False, special_tokens=list(special))
    tokenizer.save_model(str(directory))


def t5(layers='decoder.block', lengths=(37, 48, 5), untied=True, **settings):
    return Fixture(
        T5Config(
            **{
                'vocab_size': 128,
                'd_model': 32,
                'd_kv': 8,
                'num_heads': 4,
                'd_ff': 32,
                'num_layers': 3,
                'num_decoder_layers': 3,
                'tie_word_embeddings': not untied,
                **settings,
            }
        ),
        T5ForConditionalGeneration,
        layers,
        sentencepieces,
        lengths,
        untied=untied,
    )


def long_t5(attention, lengths):
    config = LongT5Config(
        vocab_size=96,
        d_model=24,
        d_kv=8,
        num_heads=3,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        local_radius=5,
        global_block_size=4,
        encoder_attention_type=attention,
        feed_forward_proj='gated-gelu',
        tie_word_embeddings=False,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
    )
    return Fixture(config, LongT5ForConditionalGeneration, 'decoder.block', sentencepieces, lengths)


def bart(**settings):
    config = BartConfig(
        vocab_size=300,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=96,
        **settings,
    )
    return Fixture(
        config,
        BartForConditionalGeneration,
        'model.decoder.layers',
        byte_pairs,
        (30, 41, 7),
        scale=0.7,
        beams=('bart', 'never'),
    )


def opt(**settings):
    config = OPTConfig(
        **{
            'vocab_size': 300,
            'hidden_size': 32,
            'num_hidden_layers': 3,
            'ffn_dim': 48,
            'max_position_embeddings': 128,
            'num_attention_heads': 4,
            'word_embed_proj_dim': 32,
            **settings,
        }
    )
    return Fixture(config, OPTForCausalLM, 'model.decoder.layers', byte_pairs, (9, 17, 4))


def llama(**settings):
    config = LlamaConfig(
        **{
            'vocab_size': 300,
            'hidden_size': 32,
            'intermediate_size': 40,
            'num_hidden_layers': 3,
            'num_attention_heads': 4,
            'num_key_value_heads': 2,
            'max_position_embeddings': 128,
            'rms_norm_eps': 1e-5,
            **settings,
        }
    )
    return Fixture(config, LlamaForCausalLM, 'model.layers', byte_pairs, (9, 17, 4))


# Between them: every supported feed-forward but one, heads that do not add up to the width, fewer buckets and a shorter
# distance than usual, sources and targets longer than the distance, unequal depths, one file and several.
MODELS = {
    'gated_gelu': t5(feed_forward_proj='gated-gelu')._replace(beams=('short', 'never')),
    'odd_shapes': t5(
        vocab_size=101,
        d_model=24,
        d_kv=10,
        num_heads=3,
        d_ff=28,
        num_layers=2,
        num_decoder_layers=4,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=33,
        layer_norm_epsilon=1e-5,
        feed_forward_proj='gated-silu',
        lengths=(70, 9, 34),
    )._replace(dtype=torch.float16, shard='20KB'),
    'plain_relu': t5(
        vocab_size=96,
        d_model=16,
        num_heads=2,
        d_ff=48,
        num_layers=1,
        num_decoder_layers=2,
        feed_forward_proj='relu',
        lengths=(12, 20, 40),
    )._replace(dtype=torch.bfloat16),
    't5_1_0': t5(feed_forward_proj='relu', num_layers=2, num_decoder_layers=2, untied=False, lengths=(12, 20, 40))._replace(
        beams=('short',)
    ),
    'longt5_local': long_t5('local', (37, 11, 4)),
    'longt5_global': long_t5('transient-global', (38, 11, 3)),
    'bart': bart(),
    'bart_scaled': bart(scale_embedding=True, activation_function='relu')._replace(shard='20KB', scale=0.35),
    'gpt2': Fixture(
        GPT2Config(vocab_size=300, n_positions=128, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
        GPT2LMHeadModel,
        'transformer.h',
        functools.partial(byte_pairs, special=['<|endoftext|>']),
        (9, 17, 4),
    ),
    'opt': opt(),
    'opt_post_norm': opt(do_layer_norm_before=False, word_embed_proj_dim=20)._replace(scale=0.7),
    'llama_1': llama(num_key_value_heads=4)._replace(beams=('short', 'never')),
    'llama_3': llama(
        tie_word_embeddings=True,
        head_dim=12,
        attention_bias=True,
        rope_parameters={
            'rope_type': 'llama3',
            'rope_theta': 500.0,
            'factor': 8.0,
            'low_freq_factor': 1.0,
            'high_freq_factor': 4.0,
            'original_max_position_embeddings': 16,
        },
    ),
}

TEXTS = (
    'the quick brown fox jumps over the lazy dog',
    'a model that answers early says the same in fewer layers',
    'every token takes as many layers as it needs',
    'half of the words are easy and the others take all of it',
    'what is skipped is written down and filled in later',
    'thresholds are chosen on one set and tested on another',
    'jumping foxes and sleeping dogs',
    'layers upon layers, row by row, word by word',
    'is it lazy to wait? not at all!',
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', default=pathlib.Path(__file__).parents[1] / 'tests/fixtures/parity', type=pathlib.Path)
    parser.add_argument('--only', choices=MODELS, action='append', help='repeatable (default all)')
    args = parser.parse_args()
    for name in args.only or MODELS:
        directory = args.output / name
        seed = next(seed for seed in range(60) if make(directory, MODELS[name], seed))
        print(f'{directory}: seed {seed}, {sum(path.stat().st_size for path in directory.iterdir()) / 1e3:.0f} kB')


def make(directory, fixture, seed):
    """Writes one model directory with its reference.npz; returns whether its greedy tokens are a good test."""
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(seed)
    if fixture.config.is_encoder_decoder and getattr(fixture.config, 'decoder_start_token_id', None) is None:
        fixture.config.decoder_start_token_id = 0
    model = fixture.architecture(fixture.config)
    if fixture.untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    randomise(model, fixture.untied, fixture.scale)
    model.to(fixture.dtype).save_pretrained(directory, max_shard_size=fixture.shard)
    fixture.tokenizer(directory)
    model = fixture.architecture.from_pretrained(directory, dtype=torch.float64).eval()
    arrays, good = (reference if fixture.config.is_encoder_decoder else decoder_reference)(model, fixture, seed)
    for name in fixture.beams if good else ():
        arrays[f'beam_{name}'] = beam(model, arrays, BEAMS[name])
    for _ in range(2 if good and fixture.beams else 0):
        # Where slightly other weights find the same, no comparison of scores was a near tie.
        other = fixture.architecture.from_pretrained(directory, dtype=torch.float64).eval()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1 + 1e-5 * torch.randn_like(parameter))
        good = good and all(np.array_equal(beam(other, arrays, BEAMS[name]), arrays[f'beam_{name}']) for name in fixture.beams)
    np.savez_compressed(directory / 'reference.npz', **arrays)
    return good


@torch.no_grad()
def beam(model, arrays, settings):
    """The best sequence of each row, int32 [B, BEAM_TOKENS], 0 after its end."""
    config = model.config
    source, mask = torch.as_tensor(arrays['source'], dtype=torch.long), torch.as_tensor(arrays['mask'], dtype=torch.long)
    start = getattr(config, 'decoder_start_token_id', None)
    settings = GenerationConfig(
        max_new_tokens=BEAM_TOKENS,
        do_sample=False,
        eos_token_id=config.eos_token_id,
        pad_token_id=0,
        decoder_start_token_id=start,
        **settings,
    )
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=0, decoder_start_token_id=start)
    found = model.generate(input_ids=source, attention_mask=mask, generation_config=settings).numpy()
    found = found[:, 1 if config.is_encoder_decoder else source.shape[1] :]
    ended = np.cumsum(found == config.eos_token_id, axis=1) - (found == config.eos_token_id) > 0
    found = np.where(ended, 0, found)
    return np.pad(found, ((0, 0), (0, BEAM_TOKENS - found.shape[1]))).astype(np.int32)


def randomise(model, untied, scale):
    """Random weights of a scale at which every part of the model matters."""
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if not parameter.is_floating_point() or 'rotary' in name:
            continue
        if 'norm' in name or '.ln_' in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
            if name.endswith('bias'):
                torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim == 1 or name == 'final_logits_bias':
            torch.nn.init.normal_(parameter, std=0.1)
        elif 'attention_bias' in name or (name == 'shared.weight' and untied):
            torch.nn.init.normal_(parameter)
        elif 'embed_positions' in name or 'wpe' in name:
            torch.nn.init.normal_(parameter, std=4.0 if getattr(model.config, 'scale_embedding', False) else 1.0)
        elif any(each in name for each in ('embed', 'wte', 'shared')):
            # A head tied to large embeddings would repeat the last token for ever.
            torch.nn.init.normal_(parameter, std=0.25)
        else:
            fan_in = parameter.shape[0] if '.c_' in name else parameter.shape[-1]
            folded = fan_in * model.config.d_kv if '.q.' in name else fan_in
            torch.nn.init.normal_(parameter, std=scale * folded**-0.5)


@torch.no_grad()
def reference(model, fixture, seed):
    """What an encoder-decoder computes, as numpy arrays by name; and whether it is a good test."""
    generator = torch.Generator().manual_seed(seed + 1)
    vocab, lengths, config = model.config.vocab_size, fixture.lengths, model.config
    source = torch.full((len(lengths), max(lengths)), config.pad_token_id, dtype=torch.long)
    for row, length in enumerate(lengths):
        source[row, :length] = torch.randint(3, vocab, (length,), generator=generator)
    target = torch.randint(3, vocab, (len(lengths), 24), generator=generator)
    target[:, 0] = config.decoder_start_token_id
    mask = (source != config.pad_token_id).long()

    states, hooks = watch(model, fixture)
    output = model(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False)
    for hook in hooks:
        hook.remove()
    generated = greedy(model, source, mask)
    arrays = {
        'source': source.numpy().astype(np.int32),
        'mask': mask.numpy().astype(bool),
        'target': target.numpy().astype(np.int32),
        'encoded': output.encoder_last_hidden_state.float().numpy(),
        'states': torch.stack(states).float().numpy(),
        'logits': output.logits.float().numpy(),
        'greedy': generated.sequences[:, 1:].numpy().astype(np.int32),
    }
    return arrays, clear_and_varied(generated)


@torch.no_grad()
def decoder_reference(model, fixture, seed):
    """What a decoder-only model computes, as numpy arrays by name; and whether it is a good test."""
    generator = torch.Generator().manual_seed(seed + 1)
    lengths = fixture.lengths
    source = torch.zeros((len(lengths), max(lengths)), dtype=torch.long)
    mask = torch.zeros_like(source)
    for row, length in enumerate(lengths):
        source[row, -length:] = torch.randint(3, model.config.vocab_size, (length,), generator=generator)
        mask[row, -length:] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)

    states, hooks = watch(model, fixture)
    output = model(input_ids=source, attention_mask=mask, position_ids=positions, use_cache=False)
    for hook in hooks:
        hook.remove()
    generated = greedy(model, source, mask)
    arrays = {
        'source': source.numpy().astype(np.int32),
        'mask': mask.numpy().astype(bool),
        'states': torch.stack(states).float().numpy(),
        'logits': output.logits.float().numpy(),
        'greedy': generated.sequences[:, source.shape[1] :].numpy().astype(np.int32),
    }
    return arrays, clear_and_varied(generated)


def watch(model, fixture):
    """(a list that gets the state after each decoder layer, the hooks that put it there)."""
    states, layers = [], model
    for name in fixture.layers.split('.'):
        layers = getattr(layers, name)

    def keep(module, inputs, output):
        states.append(output[0] if isinstance(output, tuple) else output)

    return states, [layer.register_forward_hook(keep) for layer in layers]


def greedy(model, source, mask):
    start = getattr(model.config, 'decoder_start_token_id', None)
    settings = GenerationConfig(
        max_new_tokens=GREEDY_TOKENS,
        use_cache=False,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        pad_token_id=0,
        decoder_start_token_id=start,
        output_scores=True,
        return_dict_in_generate=True,
    )
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0, decoder_start_token_id=start)
    return model.generate(input_ids=source, attention_mask=mask, generation_config=settings)


def clear_and_varied(generated):
    """Whether every greedy step wins by a margin that rounding cannot turn, and every row has at least 8 different tokens."""
    top = torch.stack(generated.scores, dim=1).topk(2).values
    distinct = min(len(set(row[-GREEDY_TOKENS:].tolist())) for row in generated.sequences)
    return (top[..., 0] - top[..., 1]).min().item() > 1e-3 and distinct >= 8


if __name__ == '__main__':
    main()
