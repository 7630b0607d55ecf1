"""The head of a task: scores of a position, read off the decoder's top state in place of a next token."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array


class TaskHead(nn.Module):
    """A linear map of the state, after tanh of another one where it is `dense` (Lewis et al. 2019, §3.1: encoder-decoders'
    labels), with a bias or without (decoder-only models' labels). float32.

    outputs: C, scores of a position.
    """

    outputs: int
    dense: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, states: Array) -> Array:
        """Scores [..., C] of states [..., E]."""
        width, small, zeros = states.shape[-1], nn.initializers.lecun_normal(), nn.initializers.zeros
        x = states.astype(jnp.promote_types(states.dtype, jnp.float32))
        if self.dense:
            kernel, bias = self.param('dense_kernel', small, (width, width)), self.param('dense_bias', zeros, (width,))
            x = jnp.tanh(x @ kernel + bias)
        x = x @ self.param('kernel', small, (width, self.outputs))
        return x + self.param('bias', zeros, (self.outputs,)) if self.bias else x

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> 'TaskHead':
        """The module whose parameters these are."""
        return cls(head['kernel'].shape[1], 'dense_kernel' in head, 'bias' in head)


def task_scores(head: Mapping[str, Any], states: Array) -> Array:
    """What a head with these parameters scores, float32 [..., C], of states [..., E] that `Transformer.top` gave."""
    scores = TaskHead.of(head).apply({'params': head}, states)
    assert isinstance(scores, jax.Array)
    return scores


def label_places(config: TransformerConfig, tokens: Array, mask: Array) -> Array:
    """Where a label is read off texts int32 [B, S] of which mask bool [B, S] is there: at the last token, where there is an
    encoder at the last that ends a sequence; int32 [B]."""
    places = mask
    if not config.decoder_only:
        ends = mask & jnp.any(tokens[..., None] == jnp.asarray(config.eos_ids), axis=-1)
        places = jnp.where(jnp.any(ends, axis=1, keepdims=True), ends, mask)
    return places.shape[1] - 1 - jnp.argmax(places[:, ::-1], axis=1)


def behind_start(tokens: Array, mask: Array, start_id: int, wraps: bool) -> Array:
    """What the decoder is given of texts int32 [B, S] that it reads: all but the last token, behind the start token, or where a
    task `wraps` behind that last token."""
    start = jnp.full_like(tokens[:, :1], start_id)
    if wraps:
        start = jnp.take_along_axis(tokens, jnp.sum(mask, axis=1, keepdims=True) - 1, axis=1)
    return jnp.concatenate([start, tokens[:, :-1]], axis=1)


def init_task_head(config: TransformerConfig, key: Array, outputs: int, dense: bool, bias: bool = True) -> dict[str, Array]:
    """Random parameters of a head for a model, as `TaskHead`. Consumes `key`."""
    states = jnp.zeros((1, config.embedding_dim or config.emb_dim))
    return dict(cast(dict, TaskHead(outputs, dense, bias).init(key, states)['params']))


def check_task_head(head: Mapping[str, Any], config: TransformerConfig, outputs: int) -> None:
    """Raises ValueError where it has other shapes than a head of so many outputs of such a model."""
    width = config.embedding_dim or config.emb_dim
    shapes = {'kernel': (width, outputs), 'bias': (outputs,), 'dense_kernel': (width, width), 'dense_bias': (width,)}
    found = {name: tuple(leaf.shape) for name, leaf in head.items()}
    wanted = {name: shapes[name] for name in found if name in shapes} | {'kernel': shapes['kernel']}
    if found != wanted or ('dense_kernel' in found) != ('dense_bias' in found):
        raise ValueError(f'the head of the task has {found}; expected {wanted}')


def head_flops(head: Mapping[str, Any]) -> int:
    """Floating-point operations of scoring one position."""
    width, outputs = head['kernel'].shape
    return 2 * width * outputs + (2 * width * width if 'dense_kernel' in head else 0)
