"""The dimensions and choices of a transformer, named by meaning and never by family."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Dimensions of an encoder-decoder transformer, under t5x's names.

    vocab_size: V, rows of the embedding; emb_dim: D; num_heads: N; head_dim: H; mlp_dim: F.
    mlp_activations: one name per input projection, their results multiplied (two names: a gated feed-forward).
    dropout_rate: share of activations dropped in training.
    norm_epsilon: added to the mean square before the root.
    relative_attention_num_buckets, relative_attention_max_distance: of the relative position bias.
    dtype: of activations; softmax, confidences and losses are float32 whatever it is.
    pad_id, eos_id, decoder_start_id: token ids; padding is masked in the source and ends nothing.
    Raises ValueError for a dimension that is not positive or an unknown activation.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ('gelu', 'linear')
    dropout_rate: float = 0.0
    norm_epsilon: float = 1e-6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dtype: str = 'float32'
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0

    def __post_init__(self):
        for name in ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers', 'num_decoder_layers'):
            if getattr(self, name) < 1:
                raise ValueError(f'TransformerConfig.{name} is {getattr(self, name)}; expected a positive number')
        object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))  # JSON and gin give lists
