"""Tiny checkpoints of the form of published ones: the same attributes, names of tensors, buffers, types and files; only sizes
and token ids are smaller, so that one shape serves a family. Their numbers follow from the names of the tensors."""

import json
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from tests.published.facts import Facts

VOCABULARY, WIDTH, HEADS, HEAD, INNER, LAYERS, POSITIONS = 48, 16, 4, 4, 24, 2, 40
KV_HEADS = 2
SOURCE, TARGET = 12, 5
_SIZES = {
    'vocab_size': VOCABULARY,
    **dict.fromkeys(('d_model', 'n_embd', 'hidden_size'), WIDTH),
    **dict.fromkeys(
        ('num_heads', 'n_head', 'num_attention_heads', 'encoder_attention_heads', 'decoder_attention_heads'), HEADS
    ),
    **dict.fromkeys(('d_kv', 'head_dim'), HEAD),
    **dict.fromkeys(('d_ff', 'encoder_ffn_dim', 'decoder_ffn_dim', 'ffn_dim', 'intermediate_size'), INNER),
    **dict.fromkeys(
        ('num_layers', 'num_decoder_layers', 'encoder_layers', 'decoder_layers', 'n_layer', 'num_hidden_layers'), LAYERS
    ),
    **dict.fromkeys(('max_position_embeddings', 'n_positions', 'n_ctx'), POSITIONS),
    'local_radius': 3,
    'global_block_size': 4,
}


def tiny_config(facts: Facts) -> dict:
    """config.json with every attribute of the published one."""
    config: dict[str, Any] = {name: _SIZES.get(name, value) for name, value in facts.config.items()}
    if 'num_key_value_heads' in config:
        grouped = facts.config['num_key_value_heads'] < facts.config['num_attention_heads']
        config['num_key_value_heads'] = KV_HEADS if grouped else HEADS
    if 'word_embed_proj_dim' in config:
        config['word_embed_proj_dim'] = (
            WIDTH if facts.config['word_embed_proj_dim'] == facts.config['hidden_size'] else WIDTH // 2
        )
    if scaling := config.get('rope_scaling'):
        if scaling.get('type') == 'dynamic':
            config['max_position_embeddings'] = TARGET - 1  # which prompts pass
        config['rope_scaling'] = {name: 8 if 'original' in name else value for name, value in scaling.items()}
    return _with_small_ids(facts, config)


def tiny_generation(facts: Facts) -> dict | None:
    """generation_config.json, or None where there is none."""
    return facts.generation and _with_small_ids(facts, dict(facts.generation))


def _with_small_ids(facts, settings):
    """Settings with ids of the tiny vocabulary: those beyond it keep their order and stand at its end."""
    given = [value for each in (facts.config, facts.generation or {}) for name, value in each.items() if 'token_id' in name]
    large = sorted({each for value in given for each in (value if isinstance(value, list) else [value]) if each >= VOCABULARY})
    small = {each: VOCABULARY - len(large) + n for n, each in enumerate(large)}

    def smaller(value):
        return [smaller(each) for each in value] if isinstance(value, list) else small.get(value, value)

    return {name: smaller(value) if 'token_id' in name else value for name, value in settings.items()}


def build(facts: Facts, directory: pathlib.Path) -> None:
    """Writes the tiny checkpoint, its tokenizer aside."""
    directory.mkdir(parents=True)
    config = tiny_config(facts)
    (directory / 'config.json').write_text(json.dumps(config, indent=1))
    if (generation := tiny_generation(facts)) is not None:
        (directory / 'generation_config.json').write_text(json.dumps(generation, indent=1))
    _write_tokenizer(directory, {**config, **(generation or {})})
    _write_weights(directory, facts.tensors, dict(_tensors(facts, config)))


def _tensors(facts, config) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors under their names in the files."""
    form, family = facts.tensors, config['model_type']
    layout = list(_LAYOUTS[family](config))
    embedding = _numbers(*layout[0])
    for name, shape in layout:
        array = _numbers(name, shape)
        outside = name == 'final_logits_bias'
        if name not in form.without:
            yield (name if outside else form.prefix + name), array
    for name in form.copies:
        yield name, embedding.copy()
    if form.head:
        yield 'lm_head.weight', embedding.copy() if form.head == 'copy' else _numbers('lm_head.weight', embedding.shape)
    for buffer in form.buffers:
        for i in range(LAYERS if '{i}' in buffer else 1):
            yield buffer.format(i=i), _numbers(buffer, _BUFFERS[buffer.rpartition('.')[2]])


_BUFFERS = {'bias': (1, 1, 8, 8), 'masked_bias': (), 'version': (1,), 'inv_freq': (HEAD // 2,), 'weight': (32, HEADS)}


def _numbers(name, shape):
    """Numbers that follow from a name, of a size at which every part of a model matters."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if 'norm' in name or '.ln_' in name or name.startswith('ln_f'):
        array = generator.uniform(0.5, 1.5, shape) if name.endswith('weight') else generator.normal(0, 0.1, shape)
    elif len(shape) < 2 or name == 'final_logits_bias':
        array = generator.normal(0, 0.1, shape)
    elif 'embed' in name or name.startswith(('shared', 'wte', 'wpe')) or 'attention_bias' in name:
        array = generator.normal(0, 0.5, shape)
    else:
        array = generator.normal(0, 1, shape) * 0.8 * WIDTH**-0.5
    return array.astype(np.float32)


def _t5_layout(config):
    gated, long = config.get('feed_forward_proj', 'relu').startswith('gated'), config.get('encoder_attention_type')
    name = {None: 'SelfAttention', 'local': 'LocalSelfAttention', 'transient-global': 'TransientGlobalSelfAttention'}[long]
    yield 'shared.weight', (VOCABULARY, WIDTH)
    for stack, attentions in (('encoder', [name]), ('decoder', ['SelfAttention', 'EncDecAttention'])):
        for i in range(LAYERS):
            block = f'{stack}.block.{i}.layer'
            for j, attention in enumerate(attentions):
                for short in 'qkv':
                    yield f'{block}.{j}.{attention}.{short}.weight', (HEADS * HEAD, WIDTH)
                yield f'{block}.{j}.{attention}.o.weight', (WIDTH, HEADS * HEAD)
                if i == j == 0:
                    yield f'{block}.{j}.{attention}.relative_attention_bias.weight', (32, HEADS)
                if attention.startswith('Transient'):
                    if i == 0:
                        yield f'{block}.{j}.{attention}.global_relative_attention_bias.weight', (32, HEADS)
                    yield f'{block}.{j}.{attention}.global_input_layer_norm.weight', (WIDTH,)
                yield f'{block}.{j}.layer_norm.weight', (WIDTH,)
            last = f'{block}.{len(attentions)}'
            for wi in ('wi_0', 'wi_1') if gated else ('wi',):
                yield f'{last}.DenseReluDense.{wi}.weight', (INNER, WIDTH)
            yield f'{last}.DenseReluDense.wo.weight', (WIDTH, INNER)
            yield f'{last}.layer_norm.weight', (WIDTH,)
        yield f'{stack}.final_layer_norm.weight', (WIDTH,)


def _linear(name, outputs, inputs, bias=True):
    yield f'{name}.weight', (outputs, inputs)
    if bias:
        yield f'{name}.bias', (outputs,)


def _norm(name):
    yield f'{name}.weight', (WIDTH,)
    yield f'{name}.bias', (WIDTH,)


def _bart_layout(config):
    before, sinusoids = config['normalize_before'], config.get('static_position_embeddings')
    yield 'shared.weight', (VOCABULARY, WIDTH)
    for stack, attentions in (('encoder', ['self_attn']), ('decoder', ['self_attn', 'encoder_attn'])):
        yield f'{stack}.embed_positions.weight', (POSITIONS + (0 if sinusoids else 2), WIDTH)
        if not sinusoids:
            yield from _norm(f'{stack}.layernorm_embedding')
        if before:
            yield from _norm(f'{stack}.layer_norm')
        for i in range(LAYERS):
            layer = f'{stack}.layers.{i}'
            for attention in attentions:
                for short in ('k', 'v', 'q', 'out'):
                    yield from _linear(f'{layer}.{attention}.{short}_proj', WIDTH, WIDTH)
                yield from _norm(f'{layer}.{attention}_layer_norm')
            yield from _linear(f'{layer}.fc1', INNER, WIDTH)
            yield from _linear(f'{layer}.fc2', WIDTH, INNER)
            yield from _norm(f'{layer}.final_layer_norm')
    yield 'final_logits_bias', (1, VOCABULARY)


def _gpt2_layout(config):
    yield 'wte.weight', (VOCABULARY, WIDTH)
    yield 'wpe.weight', (POSITIONS, WIDTH)
    for i in range(LAYERS):
        for name, outputs, inputs in (
            ('attn.c_attn', 3 * WIDTH, WIDTH),
            ('attn.c_proj', WIDTH, WIDTH),
            ('mlp.c_fc', 4 * WIDTH, WIDTH),
            ('mlp.c_proj', WIDTH, 4 * WIDTH),
        ):
            yield f'h.{i}.{name}.weight', (inputs, outputs)
            yield f'h.{i}.{name}.bias', (outputs,)
        yield from _norm(f'h.{i}.ln_1')
        yield from _norm(f'h.{i}.ln_2')
    yield from _norm('ln_f')


def _opt_layout(config):
    narrow = config['word_embed_proj_dim']
    yield 'decoder.embed_tokens.weight', (VOCABULARY, narrow)
    yield 'decoder.embed_positions.weight', (POSITIONS + 2, WIDTH)
    if narrow != WIDTH:
        yield 'decoder.project_in.weight', (WIDTH, narrow)
        yield 'decoder.project_out.weight', (narrow, WIDTH)
    for i in range(LAYERS):
        layer = f'decoder.layers.{i}'
        for short in ('k', 'v', 'q', 'out'):
            yield from _linear(f'{layer}.self_attn.{short}_proj', WIDTH, WIDTH)
        yield from _norm(f'{layer}.self_attn_layer_norm')
        yield from _linear(f'{layer}.fc1', INNER, WIDTH)
        yield from _linear(f'{layer}.fc2', WIDTH, INNER)
        yield from _norm(f'{layer}.final_layer_norm')
    if config['do_layer_norm_before']:
        yield from _norm('decoder.final_layer_norm')


def _llama_layout(config):
    keys = HEAD * config.get('num_key_value_heads', HEADS)
    yield 'embed_tokens.weight', (VOCABULARY, WIDTH)
    for i in range(LAYERS):
        layer = f'layers.{i}'
        for short, outputs in (('q', WIDTH), ('k', keys), ('v', keys), ('o', WIDTH)):
            yield f'{layer}.self_attn.{short}_proj.weight', (outputs, WIDTH)
        for short in ('gate', 'up'):
            yield f'{layer}.mlp.{short}_proj.weight', (INNER, WIDTH)
        yield f'{layer}.mlp.down_proj.weight', (WIDTH, INNER)
        yield f'{layer}.input_layernorm.weight', (WIDTH,)
        yield f'{layer}.post_attention_layernorm.weight', (WIDTH,)
    yield 'norm.weight', (WIDTH,)


_LAYOUTS = {
    **dict.fromkeys(('t5', 'mt5', 'longt5'), _t5_layout),
    **dict.fromkeys(('bart', 'mbart', 'pegasus'), _bart_layout),
    'gpt2': _gpt2_layout,
    'opt': _opt_layout,
    'llama': _llama_layout,
}


def _write_weights(directory, form, tensors):
    """Writes the tensors in the files that the form has, as the type that it has."""
    tensors = {name: array.astype(jnp.dtype(form.dtype)) for name, array in tensors.items()}
    pickled = form.files.startswith('bin')
    name, end = ('pytorch_model', 'bin') if pickled else ('model', 'safetensors')
    if 'shards' not in form.files:
        _save(directory / f'{name}.{end}', tensors, pickled)
    names = list(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    if form.files == 'safetensors' or form.files == 'bin':
        return
    shards = {f'{name}-{n + 1:05}-of-00002.{end}': half for n, half in enumerate(halves)}
    index = {'metadata': {'total_size': 1}, 'weight_map': {each: shard for shard, half in shards.items() for each in half}}
    (directory / f'{name}.{end}.index.json').write_text(json.dumps(index))
    if 'shards' in form.files:
        for shard, half in shards.items():
            _save(directory / shard, {each: tensors[each] for each in half}, pickled)


def _save(path, tensors, pickled):
    if not pickled:
        safetensors_numpy.save_file(tensors, path, {'format': 'pt'})
        return
    import torch  # pyright: ignore[reportMissingImports]

    torch.save({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, path)


def _write_tokenizer(directory, ids):
    """A tokenizer of words whose end and padding are the model's. What the published ones say is another matter."""
    ends = ids['eos_token_id']
    special = {(ends[0] if isinstance(ends, list) else ends): '</s>'}
    words = {special.get(n, f'w{n}'): n for n in range(VOCABULARY)}
    words['<unk>'] = words.pop('w0') if 'w0' in words else 0
    content = {
        'version': '1.0',
        'truncation': None,
        'padding': None,
        'added_tokens': [],
        'normalizer': None,
        'pre_tokenizer': {'type': 'WhitespaceSplit'},
        'post_processor': None,
        'decoder': None,
        'model': {'type': 'WordLevel', 'vocab': words, 'unk_token': '<unk>'},
    }
    (directory / 'tokenizer.json').write_text(json.dumps(content))
    settings = {'tokenizer_class': 'PreTrainedTokenizerFast', 'eos_token': '</s>'}
    (directory / 'tokenizer_config.json').write_text(json.dumps(settings))


def inputs(decoder_only: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens int32 [2, S], which of them are there, targets int32 [2, T]); a decoder-only model has no targets."""
    generator = np.random.default_rng(0)
    source = generator.integers(3, VOCABULARY, (2, SOURCE), np.int32)
    mask = np.ones((2, SOURCE), bool)
    if decoder_only:
        source, mask = source[:, :TARGET], mask[:, :TARGET]
        mask[1, :2] = False
    else:
        mask[1, -4:] = False
    return source, mask, generator.integers(3, VOCABULARY, (2, TARGET), np.int32)


def slug(facts: Facts) -> str:
    """The name as that of a folder."""
    return re.sub(r'[^A-Za-z0-9._-]+', '-', facts.name)
