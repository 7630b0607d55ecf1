"""Floating-point operations of a decode, per example: exact from the model's dimensions, and in the published form.

A multiplication with its addition counts 2. Letters: B examples, T tokens, S source tokens, L decoder layers, D width,
A = N·H the width of all heads together, K that of the heads of keys and values, F feed-forward width, m its input
projections, V vocabulary, E the width of the embedding.

Counted are matrix products, with lengths as they are and not as padded:
  source       encoder: per layer S·(4·D·A + 4·D·K) projections, 4·A per pair of positions that read each other, 2·S·D·F·(m + 1)
               feed-forward; with block sums G = ⌊S / block⌋ more keys: 4·S·G·A, and 4·G·D·K to project them.
               A decoder alone: the same of the S − 1 prompt tokens before the last, each with itself and those before it
  encoder_kv   4·S·D·K per decoder layer: keys and values of the encoder's output, once per example
  decoder      per token t = 0, 1, … and layer run: self-attention 4·D·A + 4·D·K + 4·(t + 1)·A, cross-attention
               4·D·A + 4·S·A, feed-forward 2·D·F·(m + 1); a decoder alone has its prompt before t and no cross-attention
  skipped_kv   4·D·K per position and skipped layer whose keys and values are computed
  confidence   what the measure costs, per token and layer observed
  head         2·E·V, and 2·D·E where E is not D, per token whose prediction the measure has not computed already
Not counted: embeddings (a look-up), norms, activations, softmaxes, residuals, biases, relative positions, the argmax,
the gates themselves, an oracle's look-ahead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.models.config import TransformerConfig
from calm_jax.types import Plan


class Cost(NamedTuple):
    """Operations by where they go, each float64 [B] (whole numbers, exact below 2⁵³)."""

    source: np.ndarray
    encoder_kv: np.ndarray
    decoder: np.ndarray
    skipped_kv: np.ndarray
    confidence: np.ndarray
    head: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """All of them together, [B]."""
        return sum(self)


# Up to which layer a position ends up with keys and values: the last one that the token or a later token of its row
# enters; the last of all; the token's own exit, where the layers above copy what it has.
_REACH = {
    'lazy': lambda exits, num_layers: _latest_maximum(exits),
    'eager': lambda exits, num_layers: np.where(exits > 0, num_layers, 0),
    'copy': lambda exits, num_layers: exits,
}


def exact(
    config: TransformerConfig,
    source_lengths: Sequence[int],
    exit_layers: Sequence[Sequence[int]],
    confidence_flops_per_layer: int | Sequence[int] = 0,
    predicts: bool | Sequence[bool] = False,
    layers_run: Sequence[Sequence[int]] | None = None,
    plan: Plan | None = None,
    propagation: str = 'lazy',
    sequences: int = 1,
) -> Cost:
    """Operations of each example as this library decodes it; the terms are listed at the top of the file.

    source_lengths: S, [B], of the source or the prompt.
    exit_layers: layers each token visited, 1…L; B lists, or [B, T] with zeros after the end.
    confidence_flops_per_layer: what the measure says one observation costs, one number or one per layer [L], asked at the
      layers run; 0 where exits are off, and at layers that it does not look at.
    predicts: whether an observation yields the token, alike for all layers or one per layer [L]; the head runs only for tokens
      that none has yielded.
    layers_run: how many of the visited layers ran, as exit_layers; fewer where gates skip. None: all of the plan's.
      Keys and values of a gated layer are computed at once.
    plan: sub-layers that each row runs at all, bool [B, L] each; None: all. Counts do not say which layers the gates
      skipped: where they are mixed with a plan, or with costs that differ by layer, the layers skipped are taken in
      proportion. Everything else is exact.
    propagation: 'lazy' (a skipped layer's keys and values are computed for a position once a later token of the row
      enters that layer), 'eager' (always) or 'copy' (never).
    sequences: how many of a row a beam search runs side by side, each for as long as the one that it chose.

    Raises ValueError for lengths that disagree, layers outside 1…L, more layers run than visited, and an unknown
    propagation.
    """
    num_layers = config.num_decoder_layers
    exits, sources, alive = _decoded(config, source_lengths, exit_layers)
    if propagation not in _REACH:
        raise ValueError(f'unknown propagation {propagation!r}; known: {", ".join(_REACH)}')
    if plan is None:
        plan = _full_plan(len(sources), config)
    in_plan = np.logical_or.reduce([np.asarray(kind, bool) for kind in plan[:3]])
    visited = _at(_counts(in_plan), exits)
    run = visited if layers_run is None else _padded(layers_run, 'layers_run')
    if run.shape != exits.shape or (run > visited).any() or (run < 0).any():
        raise ValueError(
            'layers_run does not fit: expected a number for each of exit_layers, at most the layers that '
            'the token visited and the plan runs'
        )

    def ran(counts):
        """Of what the first l layers hold (counts [B, L + 1]), what the layers that each token ran hold, [B, T]."""
        return _at(counts, exits) * run / np.maximum(visited, 1)

    self_counts, cross_counts, feed_counts = (_counts(kind) for kind in plan[:3])
    width, heads = config.emb_dim, config.num_heads * config.head_dim
    feed_forward = 2 * width * config.mlp_dim * (len(config.mlp_activations) + 1)
    keys_values = 4 * width * config.kv_heads * config.head_dim
    projections = 4 * width * heads + keys_values
    positions = np.arange(1, exits.shape[1] + 1)
    if config.decoder_only:
        read = np.maximum(sources - 1, 0)
        positions = positions + read[:, None]
        source = (
            self_counts[:, -1] * (read * projections + 2 * read * (read + 1) * heads) + feed_counts[:, -1] * read * feed_forward
        )
        cross_counts = np.zeros_like(cross_counts)
    else:
        encoder_attention, encoder_feed = (np.asarray(kind, bool).sum(axis=1) for kind in plan[3:])
        pairs, blocks = _encoder_pairs(config, sources)
        source = (
            encoder_attention * (sources * projections + 4 * pairs * heads + blocks * keys_values)
            + encoder_feed * sources * feed_forward
        )
    decoder = (
        ran(self_counts) * (projections + 4 * positions * heads)
        + ran(cross_counts) * (4 * width * heads + 4 * sources[:, None] * heads)
        + ran(feed_counts) * feed_forward
    )
    filled = _at(self_counts, _REACH[propagation](exits, num_layers))

    price = np.broadcast_to(confidence_flops_per_layer, (num_layers,))
    apart = alive & (ran(_counts(in_plan & np.broadcast_to(predicts, (num_layers,)))) == 0)

    return Cost(
        source=source,
        encoder_kv=cross_counts[:, -1] * sources * keys_values,
        decoder=sequences * decoder.sum(axis=1),
        skipped_kv=(filled - ran(self_counts)).sum(axis=1) * keys_values,
        confidence=ran(_counts(in_plan * price)).sum(axis=1),
        head=sequences * apart.sum(axis=1) * float(config.sizes.head_flops()),
    )


def _encoder_pairs(config: TransformerConfig, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries times the keys that each reads in an encoder layer, and block sums among the keys: [B] each."""
    if config.encoder_attention == 'full':
        return sources**2, np.zeros_like(sources)
    # Without an end, 2r + 1 keys each; r(r + 1) / 2 fall off each end.
    reach = np.minimum(config.local_radius, np.maximum(sources - 1, 0))
    pairs = sources * (2 * reach + 1) - reach * (reach + 1)
    summed = config.encoder_attention == 'transient_global'
    blocks = sources // config.global_block_size if summed else np.zeros_like(sources)
    return pairs + sources * blocks, blocks


def elbayad(
    config: TransformerConfig,
    source_lengths: Sequence[int],
    exit_layers: Sequence[Sequence[int]],
    confidence_flops_per_layer: int | Sequence[int] = 0,
    predicts: bool | Sequence[bool] = False,
) -> Cost:
    """The decoder's operations as Elbayad et al. 2020 (App. B) count them, and Schuster et al. 2022 after them.

    Per token t = 1, 2, … with q of N layers run, d the width, |x| the source's length:
        q·FC + (N − q)·FS + FP + 2·V·d.
    FC = 12d² + 4·d·d_ff + 4·t·d + 4·|x|·d, and 4·|x|·d·d_e more the first time a layer is called in the sequence
    (here `encoder_kv`). FS = 4d², the keys and values of a skipped layer. FP is what the measure costs in the q layers,
    2·q·V·d for softmax and 2·q·d for the classifier; one that predicts has applied the head, so the last 2·V·d goes.
    The encoder is not counted, all heads together are taken to be d wide, the feed-forward to have two matrices. A decoder
    alone has neither the 4d² of its cross-attention nor |x|, and t counts the prompt too.
    The sum over an example's tokens, not their mean. Arguments and errors as `exact`.
    """
    exits, sources, alive = _decoded(config, source_lengths, exit_layers)
    width = float(config.emb_dim)
    price = np.broadcast_to(confidence_flops_per_layer, (len(sources), config.num_decoder_layers))
    positions = np.arange(1, exits.shape[1] + 1)
    if config.decoder_only:
        called = 8 * width**2 + 4 * width * config.mlp_dim + 4 * (positions + np.maximum(sources - 1, 0)[:, None]) * width
    else:
        called = 12 * width**2 + 4 * width * config.mlp_dim + 4 * positions * width + 4 * sources[:, None] * width
    return Cost(
        source=np.zeros(len(sources)),
        encoder_kv=0.0 * sources if config.decoder_only else exits.max(axis=1, initial=0) * 4 * sources * width * width,
        decoder=(exits * called).sum(axis=1),
        skipped_kv=np.where(alive, config.num_decoder_layers - exits, 0).sum(axis=1) * 4 * width**2,
        confidence=_at(_counts(price), exits).sum(axis=1),
        head=alive.sum(axis=1) * (0 if np.any(predicts) else 2 * config.vocab_size * width),
    )


def _decoded(config: TransformerConfig, source_lengths: Sequence[int], exit_layers: Sequence[Sequence[int]]):
    """Exit layers [B, T], source lengths [B] and which tokens are there [B, T], checked."""
    exits, sources = _padded(exit_layers, 'exit_layers'), np.asarray(source_lengths, np.int64)
    if sources.shape != exits.shape[:1]:
        raise ValueError(f'{sources.size} source lengths for {len(exits)} rows of exit_layers: expected one for each')
    alive = exits > 0
    outside = exits[(exits < 0) | (exits > config.num_decoder_layers)]
    if outside.size:
        raise ValueError(f'exit layer {outside[0]}: expected layers visited, 1 to {config.num_decoder_layers}')
    if (alive[:, 1:] & ~alive[:, :-1]).any():
        raise ValueError('an exit layer of 0 before the end of a row: expected 0 only after the last token')
    return exits, sources, alive


def _padded(rows: Sequence[Sequence[int]], name: str) -> np.ndarray:
    """Lists of unlike lengths as int64 [B, T], zeros after each end; an array as it is."""
    if not hasattr(rows, '__array__'):
        lengths = np.array([len(row) for row in rows], np.int64)
        array = np.zeros((len(lengths), lengths.max(initial=0)), np.int64)
        array[np.arange(array.shape[1]) < lengths[:, None]] = [layer for row in rows for layer in row]
        return array
    array = np.asarray(rows).astype(np.int64)
    if array.ndim != 2:
        raise ValueError(f'{name} has {array.ndim} dimensions: expected a row of layers for each example, [B, T]')
    return array


def _full_plan(rows: int, config: TransformerConfig) -> Plan:
    decoder = np.ones((rows, config.num_decoder_layers), bool)
    encoder = np.ones((rows, config.num_encoder_layers), bool)
    return Plan(decoder, decoder, decoder, encoder, encoder)


def _counts(held: np.ndarray) -> np.ndarray:
    """[B, L] → float64 [B, L + 1], how much the first l layers hold: a token's count is a look-up at its exit."""
    held = np.asarray(held, np.float64)
    return np.concatenate([np.zeros((len(held), 1)), np.cumsum(held, axis=1)], axis=1)


def _at(counts: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """counts[b, layers[b, t]], [B, T]."""
    return np.take_along_axis(counts, layers, axis=1)


def _latest_maximum(exits: np.ndarray) -> np.ndarray:
    """For each position the highest exit layer from it to the end of its row, [B, T]."""
    return np.flip(np.maximum.accumulate(np.flip(exits, axis=1), axis=1), axis=1)
