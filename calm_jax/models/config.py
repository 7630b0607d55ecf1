"""The dimensions and choices of a transformer, named by meaning and never by family."""

import dataclasses
import math
from typing import Literal

from calm_jax.checks import check_types
from calm_jax.types import Sizes, state_dtype

ACTIVATIONS = ('gelu', 'gelu_exact', 'relu', 'silu', 'linear')
DEVICE_DTYPES = ('float32', 'bfloat16', 'float16')  # what models are stored and run in
DTYPES = (*DEVICE_DTYPES, 'float64')  # float64 where JAX_ENABLE_X64 is set: to compare without rounding


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Dimensions and choices of a transformer, under t5x's names; the defaults are those of T5 1.1.

    vocab_size: V, rows of the embedding; emb_dim: D; num_heads: N; head_dim: H; mlp_dim: F.
    num_encoder_layers: 0 is a decoder-only model, which continues its prompt and has no cross-attention.
    mlp_activations: one name per input projection, their results multiplied (two names: a gated feed-forward). 'gelu' is the
    tanh approximation, 'gelu_exact' the error function.
    dropout_rate: share of activations dropped in training.
    norm: 'rms' scales by the root mean square, 'layer' subtracts the mean first and has a bias. norm_position: of the
    normed state that a sub-layer reads ('pre'), or of its sum with what it read ('post'). final_norm: one more before the head.
    norm_epsilon: added to the mean square, or the variance, before the root.
    positions: 'relative', a bias of attention scores by distance; 'learned', a vector added to the token's; 'rotary', a
    rotation of queries and keys.
    relative_attention_num_buckets, relative_attention_max_distance: of the relative position bias; an encoder's quarter of
    the buckets and a decoder's half are exact distances, and the maximum lies beyond them.
    relative_attention_per_layer: whether each layer has that bias of its own, and not all of a stack one.
    max_positions: P, how many learned positions there are; position_offset: rows of their table before the first.
    rotary_theta: base of the wavelengths; rotary_scaling: how they are stretched: () not; (factor,) all of them; (factor,
    original length) as far as positions pass that length; (factor, low and high frequency factors, original length) long ones.
    num_kv_heads: heads of keys and values, each shared by as many queries; 0: N.
    attention_scale: whether scores are divided by √H. attention_bias, mlp_bias: whether those maps add one.
    embedding_scale: token vectors are multiplied by it; embedding_norm: whether a norm follows them.
    embedding_dim: width of the embedding where it is not D, with projections to D and back; 0: D.
    tied_head: the head is the embedding; head_scale: its input is multiplied by it; head_bias: whether it adds one.
    encoder_attention: 'full'; 'local', as far as local_radius to either side; 'transient_global', that and sums of blocks of
    global_block_size tokens.
    dtype: of activations; softmax, confidences and losses are float32 whatever it is.
    pad_id, eos_id, decoder_start_id: token ids; padding is masked in the source and ends nothing (−1: the vocabulary has
    none). other_eos_ids: end too.
    Raises ValueError for a value of the wrong type, a dimension that is not positive, an unknown activation or dtype, a
    dropout_rate outside [0, 1), and parts that do not fit together.
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
    norm: Literal['rms', 'layer'] = 'rms'
    norm_position: Literal['pre', 'post'] = 'pre'
    final_norm: bool = True
    norm_epsilon: float = 1e-6
    positions: Literal['relative', 'learned', 'rotary'] = 'relative'
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    relative_attention_per_layer: bool = False
    max_positions: int = 0
    position_offset: int = 0
    rotary_theta: float = 10_000.0
    rotary_scaling: tuple[float, ...] = ()
    num_kv_heads: int = 0
    attention_scale: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    embedding_dim: int = 0
    tied_head: bool = False
    head_scale: float = 1.0
    head_bias: bool = False
    encoder_attention: Literal['full', 'local', 'transient_global'] = 'full'
    local_radius: int = 127
    global_block_size: int = 16
    dtype: str = 'float32'
    pad_id: int = 0
    eos_id: int = 1
    other_eos_ids: tuple[int, ...] = ()
    decoder_start_id: int = 0

    def __post_init__(self):
        check_types(self, 'TransformerConfig.')
        for name in ('mlp_activations', 'rotary_scaling', 'other_eos_ids'):  # JSON and gin give lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in (
            'vocab_size',
            'emb_dim',
            'num_heads',
            'head_dim',
            'mlp_dim',
            'num_decoder_layers',
            'local_radius',
            'global_block_size',
            *(['max_positions'] if self.positions == 'learned' else []),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f'TransformerConfig.{name} is {getattr(self, name)}; expected a positive number')
        for name in ('num_encoder_layers', 'num_kv_heads', 'embedding_dim', 'position_offset'):
            if getattr(self, name) < 0:
                raise ValueError(f'TransformerConfig.{name} is {getattr(self, name)}; expected 0 or more')
        for name in ('rotary_theta', 'embedding_scale', 'head_scale'):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f'TransformerConfig.{name} is {getattr(self, name)}; expected a positive number')
        if not self.mlp_activations:
            raise ValueError('TransformerConfig.mlp_activations is empty; expected a list of texts')
        for name in self.mlp_activations:
            if name not in ACTIVATIONS:
                raise ValueError(f'unknown activation {name!r}; known: {", ".join(ACTIVATIONS)}')
        if self.dtype not in DTYPES:
            raise ValueError(f'TransformerConfig.dtype is {self.dtype!r}; expected one of {", ".join(DTYPES)}')
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f'TransformerConfig.dropout_rate is {self.dropout_rate}; expected at least 0 and less than 1')
        if not 0 <= self.norm_epsilon < math.inf:
            raise ValueError(f'TransformerConfig.norm_epsilon is {self.norm_epsilon}; expected 0 or more')
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f'TransformerConfig.num_kv_heads is {self.num_kv_heads}; expected a divisor of the {self.num_heads} heads'
            )
        if self.positions == 'rotary' and self.head_dim % 2:
            raise ValueError(f'TransformerConfig.head_dim is {self.head_dim}; expected an even number, as rotations turn pairs')
        if len(self.rotary_scaling) not in (0, 1, 2, 4):
            raise ValueError(
                f'TransformerConfig.rotary_scaling is {self.rotary_scaling}; expected nothing, a factor, a factor and the '
                'original length, or these with low and high frequency factors between'
            )
        if len(self.rotary_scaling) == 2 and self.head_dim < 4:
            raise ValueError(f'TransformerConfig.head_dim is {self.head_dim}; expected 4 or more where rotations stretch')
        if self.encoder_attention != 'full' and (
            self.positions != 'relative' or self.attention_scale or self.kv_heads != self.num_heads
        ):
            raise ValueError(
                f'TransformerConfig.encoder_attention is {self.encoder_attention!r}; expected full: the others '
                'need relative positions, and know neither attention_scale nor num_kv_heads'
            )
        if self.relative_attention_per_layer and (self.positions != 'relative' or self.encoder_attention != 'full'):
            raise ValueError(
                'TransformerConfig.relative_attention_per_layer is True; expected relative positions and encoder_attention full'
            )
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4:
            raise ValueError(f'TransformerConfig.relative_attention_num_buckets is {buckets}; expected 4 or more')
        if distance <= buckets // 2:
            raise ValueError(
                f'TransformerConfig.relative_attention_max_distance is {distance}; expected more than '
                f'{buckets // 2}, half of the {buckets} buckets, which are exact distances'
            )

    @property
    def decoder_only(self) -> bool:
        """Whether the model continues a prompt, and encodes nothing."""
        return self.num_encoder_layers == 0

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def embedding_spread(self) -> float:
        """The standard deviation that vectors of tokens and positions start with: 1, or what gives
        logits a variance of 1 where the table is the head too."""
        return 1 / (self.head_scale * (self.embedding_dim or self.emb_dim) ** 0.5) if self.tied_head else 1.0

    @property
    def state_dtype(self) -> str:
        """Of the states between sub-layers."""
        return state_dtype(self.dtype)

    @property
    def sizes(self) -> Sizes:
        """What decisions are sized by."""
        return Sizes(
            layers=self.num_decoder_layers,
            width=self.emb_dim,
            vocabulary=self.vocab_size,
            embedding=self.embedding_dim or self.emb_dim,
            projects=bool(self.embedding_dim),
            head_bias=self.head_bias,
            dtype=self.dtype,
            encoder_layers=self.num_encoder_layers,
            drops_tokens=not self.decoder_only and self.encoder_attention == 'full',
        )

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a sequence."""
        return (self.eos_id, *self.other_eos_ids)
