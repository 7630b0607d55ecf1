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
        joined = c.num_heads * c.head_dim
        return c.emb_dim * (4 * joined + 2 * joined + (len(c.mlp_activations) + 1) * c.mlp_dim)

    def head_weights(self):
        """Weights that one application of the unembedding reads."""
        return self.config.emb_dim * self.config.vocab_size

    def step_weights(self, layers, heads=1):
        """Weights that one step reads when it runs `layers` decoder layers and applies the head `heads` times."""
        return layers * self.layer_weights() + heads * self.head_weights()


def t5_1_1():
    """T5 1.1: 8 + 8 layers, D 512, 6 heads of 64, F 1,024 (gated), vocabulary 32,128."""
    config = TransformerConfig(
        vocab_size=32128, emb_dim=512, num_heads=6, head_dim=64, mlp_dim=1024,
        num_encoder_layers=8, num_decoder_layers=8, mlp_activations=('gelu', 'linear'))
    return Shape('t5_1_1', config, 'T5ForConditionalGeneration')


def tiny():
    """T5 1.1 in miniature, to try the scripts."""
    config = TransformerConfig(
        vocab_size=512, emb_dim=32, num_heads=2, head_dim=16, mlp_dim=64,
        num_encoder_layers=4, num_decoder_layers=4, mlp_activations=('gelu', 'linear'))
    return Shape('tiny', config, 'T5ForConditionalGeneration')


SHAPES = {'t5_1_1': t5_1_1, 'tiny': tiny}
