"""The models that the benchmarks time: their dimensions, and the bytes that one decoded token must read."""

import dataclasses

from calm_jax.models.config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Shape:
    """One model shape: `config` is ours, `architecture` the class that runs its export in Hugging Face transformers."""

    name: str
    config: TransformerConfig
    architecture: str

    def layer_weights(self):
        """Weights that one decoder layer reads for one step; cross-attention's keys and values were made before."""
        c = self.config
        queries, keys = c.num_heads * c.head_dim, c.kv_heads * c.head_dim
        cross = 0 if c.decoder_only else 2 * queries
        return c.emb_dim * (2 * queries + 2 * keys + cross + (len(c.mlp_activations) + 1) * c.mlp_dim)

    def head_weights(self):
        """Weights that one application of the unembedding reads."""
        return self.config.emb_dim * self.config.vocab_size

    def step_weights(self, layers, heads=1):
        """Weights that one step reads when it runs `layers` decoder layers and applies the head `heads` times."""
        return layers * self.layer_weights() + heads * self.head_weights()


def t5_1_1():
    """T5 1.1: 8 + 8 layers, D 512, 6 heads of 64, F 1,024 (gated), vocabulary 32,128."""
    config = TransformerConfig(
        vocab_size=32128,
        emb_dim=512,
        num_heads=6,
        head_dim=64,
        mlp_dim=1024,
        num_encoder_layers=8,
        num_decoder_layers=8,
        mlp_activations=('gelu', 'linear'),
    )
    return Shape('t5_1_1', config, 'T5ForConditionalGeneration')


def t5_base():
    """T5 1.1 base: 12 + 12 layers, D 768, 12 heads of 64, F 2,048 (gated), vocabulary 32,128."""
    config = TransformerConfig(
        vocab_size=32128,
        emb_dim=768,
        num_heads=12,
        head_dim=64,
        mlp_dim=2048,
        num_encoder_layers=12,
        num_decoder_layers=12,
        mlp_activations=('gelu', 'linear'),
    )
    return Shape('t5_base', config, 'T5ForConditionalGeneration')


def tiny():
    """T5 1.1 in miniature, to try the scripts."""
    config = TransformerConfig(
        vocab_size=512,
        emb_dim=32,
        num_heads=2,
        head_dim=16,
        mlp_dim=64,
        num_encoder_layers=4,
        num_decoder_layers=4,
        mlp_activations=('gelu', 'linear'),
    )
    return Shape('tiny', config, 'T5ForConditionalGeneration')


# The others are as wide and deep as the T5, with the same vocabulary: what differs is the family.
_COMMON = {
    'vocab_size': 32128,
    'emb_dim': 512,
    'num_heads': 8,
    'head_dim': 64,
    'num_decoder_layers': 8,
    'attention_scale': True,
}
_LEARNED = {
    **_COMMON,
    'mlp_dim': 2048,
    'norm': 'layer',
    'norm_epsilon': 1e-5,
    'positions': 'learned',
    'max_positions': 1024,
    'attention_bias': True,
    'mlp_bias': True,
    'tied_head': True,
}


def bart():
    """BART: 8 + 8 layers, D 512, 8 heads of 64, F 2,048, vocabulary 32,128."""
    config = TransformerConfig(
        **_LEARNED,
        num_encoder_layers=8,
        mlp_activations=('gelu_exact',),
        norm_position='post',
        final_norm=False,
        position_offset=2,
        embedding_norm=True,
        head_bias=True,
        decoder_start_id=1,
    )
    return Shape('bart', config, 'BartForConditionalGeneration')


def gpt2():
    """GPT-2: 8 layers, D 512, 8 heads of 64, F 2,048, vocabulary 32,128."""
    config = TransformerConfig(**_LEARNED, num_encoder_layers=0, mlp_activations=('gelu',), pad_id=-1)
    return Shape('gpt2', config, 'GPT2LMHeadModel')


def opt():
    """OPT: 8 layers, D 512, 8 heads of 64, F 2,048, vocabulary 32,128."""
    config = TransformerConfig(**_LEARNED, num_encoder_layers=0, mlp_activations=('relu',), position_offset=2, pad_id=-1)
    return Shape('opt', config, 'OPTForCausalLM')


def llama():
    """LLaMA: 8 layers, D 512, 8 heads of 64 on 4 of keys and values, F 1,408 (gated), vocabulary 32,128."""
    config = TransformerConfig(
        **_COMMON,
        num_encoder_layers=0,
        mlp_dim=1408,
        num_kv_heads=4,
        mlp_activations=('silu', 'linear'),
        positions='rotary',
        max_positions=1024,
        pad_id=-1,
    )
    return Shape('llama', config, 'LlamaForCausalLM')


SHAPES = {'t5_1_1': t5_1_1, 'bart': bart, 'gpt2': gpt2, 'opt': opt, 'llama': llama, 't5_base': t5_base, 'tiny': tiny}
