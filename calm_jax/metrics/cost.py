"""Floating-point operations of a decode, per example: unit prices from the model's dimensions times the counts of its work,
exact and in the published form; and the layers that a token ran.

A multiplication with its addition counts 2. Letters: B rows, T columns of `Work`, S source tokens, L decoder layers, D width,
A = N·H the width of all heads together, K that of the heads of keys and values, F feed-forward width, m its input
projections, V vocabulary, E the width of the embedding.

Counted are matrix products, with lengths as they are and not as padded. What each count of `Work` and `PrefillWork` is
multiplied by, and the term that it goes to (S is of the tokens that a plan kept, but in the encoder_first layers of each kind
that were run before it dropped dropped_tokens):
  source       encoder_attention: S·(4·D·A + 4·D·K) projections, 4·A per pair of positions that read each other; with block
               sums G = ⌊S / block⌋ more keys: 4·S·G·A, and 4·G·D·K to project them. encoder_feed_forward: 2·S·D·F·(m + 1).
               Of a decoder-only model, for the S − 1 prompt tokens before the last: prompt_attention (S − 1)·4·D·A and
               2·(S − 1)·S·A, each token with itself and those before it; prompt_keys_values 4·(S − 1)·D·K;
               prompt_feed_forward 2·(S − 1)·D·F·(m + 1); prompt_last, the last token through a whole layer,
               4·D·A + 4·D·K + 4·S·A + 2·D·F·(m + 1)
  encoder_kv   cross_keys_values: 4·S·D·K, keys and values of the encoder's output
  decoder      in column t = 0, 1, …: self_attention 4·D·A + 4·(t + 1)·A, of a decoder-only model 4·(S + t)·A for the latter;
               cross_attention 4·D·A + 4·S·A; feed_forward 2·D·F·(m + 1)
  keys_values  keys_values: 4·D·K, of self-attention, the token's own and those it made up for earlier ones
  decisions    decisions, of the plan maker and of measures and gates: D
  head         head_ids: 2·E; head_states: 2·D·E where states are projected to the embedding's width, else 0
Not counted: embeddings (a look-up), norms, activations, softmaxes, residuals, biases, relative positions, the argmax, an
oracle's look-ahead, keys and values that are computed and then read by nobody.

The sequences of a beam search count together in their row's columns, those past the chosen one's end too.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calm_jax.models.config import TransformerConfig
from calm_jax.models.flops import of_token
from calm_jax.types import PrefillWork, Work


class Cost(NamedTuple):
    """Operations by where they go, each float64 [B] (whole numbers, exact below 2⁵³)."""

    source: np.ndarray
    encoder_kv: np.ndarray
    decoder: np.ndarray
    keys_values: np.ndarray
    decisions: np.ndarray
    head: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """All of them together, [B]."""
        return np.sum(self, axis=0)


def exact(config: TransformerConfig, source_tokens: Sequence[int] | np.ndarray, work: Work, prefill: PrefillWork) -> Cost:
    """Operations that each row needed, as this library computes; the terms are listed at the top of the file.

    source_tokens: S, [B], tokens of the source or the prompt, without padding. work, prefill: of a `Trace`, or rows of one.

    Raises ValueError for shapes that disagree, counts below 0, and counts of what the model does not have.
    """
    sources, counts, prefill_counts = _checked(config, source_tokens, work, prefill)
    width, heads = config.emb_dim, config.num_heads * config.head_dim
    queries_outputs, keys_values, feed_forward = of_token(config)
    prompt = _prompt_tokens(config, sources)
    attention = functools.partial(encoder_attention, config)
    first, kept = prefill_counts.encoder_first, sources - prefill_counts.dropped_tokens
    encoder = (
        first * (attention(sources) + sources * feed_forward)
        + (prefill_counts.encoder_attention - first) * attention(kept)
        + (prefill_counts.encoder_feed_forward - first) * kept * feed_forward
    )
    prompt_reading = (
        prefill_counts.prompt_attention * (prompt * queries_outputs + 2 * prompt * (prompt + 1) * heads)
        + prefill_counts.prompt_keys_values * prompt * keys_values
        + prefill_counts.prompt_feed_forward * prompt * feed_forward
        + prefill_counts.prompt_last * (queries_outputs + keys_values + 4 * sources * heads + feed_forward)
    )
    return Cost(
        source=encoder + prompt_reading,
        encoder_kv=prefill_counts.cross_keys_values * kept * keys_values,
        decoder=np.sum(
            counts.self_attention * (queries_outputs + 4 * _keys_read(prompt, counts) * heads)
            + counts.cross_attention * (queries_outputs + 4 * kept[:, None] * heads)
            + counts.feed_forward * feed_forward,
            axis=1,
        ),
        keys_values=counts.keys_values.sum(axis=1) * keys_values,
        decisions=_decisions(counts, prefill_counts) * width,
        head=counts.head_ids.sum(axis=1) * id_flops(config) + counts.head_states.sum(axis=1) * state_flops(config),
    )


def at_full_depth(
    config: TransformerConfig,
    source_tokens: Sequence[int] | np.ndarray,
    new_tokens: Sequence[int] | np.ndarray,
    reads: bool = False,
) -> np.ndarray:
    """Operations of texts that run everything and score every id once a token, [B]: what those of a plan or an exit are a share
    of. source_tokens, new_tokens: [B]. reads: whether they are read for a task, and say nothing; its head is left out.
    """
    sources = np.asarray(source_tokens, np.int64)
    lengths = sources if reads else np.asarray(new_tokens, np.int64)
    there: Any = (np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]).astype(np.int64)
    one: Any = np.ones_like(sources)
    layers = config.num_decoder_layers
    across = 0 if config.decoder_only else layers
    scored = 0 if reads else 1
    work = Work(
        self_attention=layers * there,
        cross_attention=across * there,
        feed_forward=layers * there,
        keys_values=layers * there,
        head_states=scored * there,
        head_ids=scored * config.vocab_size * there,
        decisions=0 * there,
    )
    prompt = 0 if reads or not config.decoder_only else layers
    prefill = PrefillWork(
        encoder_attention=config.num_encoder_layers * one,
        encoder_feed_forward=config.num_encoder_layers * one,
        cross_keys_values=across * one,
        prompt_attention=prompt * one,
        prompt_feed_forward=prompt * one,
        prompt_keys_values=prompt * one,
        prompt_last=0 * one,
        decisions=0 * one,
        encoder_first=0 * one,
        dropped_tokens=0 * one,
    )
    return exact(config, one if reads and config.decoder_only else sources, work, prefill).total


def encoder_attention(config: TransformerConfig, tokens: Any) -> Any:
    """Operations of the attention of one encoder layer over so many tokens, numbers or an array of any library."""
    queries_outputs, keys_values, _ = of_token(config)
    pairs, blocks = _encoder_pairs(config, tokens)
    reading = 4 * pairs * config.num_heads * config.head_dim
    return tokens * (queries_outputs + keys_values) + reading + blocks * keys_values


def elbayad(config: TransformerConfig, source_tokens: Sequence[int] | np.ndarray, work: Work, prefill: PrefillWork) -> Cost:
    """The decoder's operations as Elbayad et al. 2020 (App. B) count them, and Schuster et al. 2022 after them.

    Per token t = 1, 2, … with q of N layers run, d the width, |x| the source's length:
        q·FC + (N − q)·FS + FP + 2·V·d.
    FC = 12d² + 4·d·d_ff + 4·t·d + 4·|x|·d, and 4·|x|·d·d_e more the first time a layer is called in the sequence
    (here `encoder_kv`). FS = 4d², the keys and values of a skipped layer (here `keys_values`). FP is what the measure costs in
    the q layers, 2·q·V·d for softmax and 2·q·d for the classifier; one that predicts has applied the head, so the last 2·V·d
    goes. The encoder is not counted, all heads together are taken to be d wide, the feed-forward to have two matrices. A
    decoder-only model has neither the 4d² of its cross-attention nor |x|, and t counts the prompt too.

    All of it is of what ran: q are layers as `layers` counts them. Logits are 2·d per id that was scored, by the measure or,
    where it had scored none, at the exit (here `head`); the rest of FP, and what plan makers and gates cost, are their own
    counts (here `decisions`). Layers called in a sequence are the most cross-attentions of any of its tokens: with gates, which
    call unlike layers, at least. With beams q is of all sequences together, and N − q not below 0.
    The sum over an example's tokens, not their mean. Arguments and errors as `exact`.
    """
    sources, counts, prefill_counts = _checked(config, source_tokens, work, prefill)
    sources = sources - prefill_counts.dropped_tokens
    width, run = float(config.emb_dim), layers(config, counts)
    called = 8 * width**2 + 4 * width * config.mlp_dim + 4 * _keys_read(_prompt_tokens(config, sources), counts) * width
    if not config.decoder_only:
        called = called + 4 * width**2 + 4 * sources[:, None] * width
    first_called = np.minimum(counts.cross_attention.max(axis=1, initial=0), prefill_counts.cross_keys_values)
    skipped = np.where(counts.head_states > 0, np.maximum(config.num_decoder_layers - run, 0), 0)
    return Cost(
        source=np.zeros(len(sources)),
        encoder_kv=first_called * 4 * sources * width**2,
        decoder=(run * called).sum(axis=1),
        keys_values=skipped.sum(axis=1) * 4 * width**2,
        decisions=_decisions(counts, prefill_counts) * width,
        head=counts.head_ids.sum(axis=1) * 2 * width,
    )


def layers(config: TransformerConfig, work: Work) -> np.ndarray:
    """The layers that each token ran, float64 [B, T]: its sub-layers over those of a layer.

    0 past the end; with beams, of all sequences of the row together.
    """
    own, cross, feed_forward = (
        np.asarray(each, np.float64) for each in (work.self_attention, work.cross_attention, work.feed_forward)
    )
    return (own + cross + feed_forward) / sub_layers(config)


def sub_layers(config: TransformerConfig) -> int:
    """Sub-layers of a decoder layer: self-attention, feed-forward and, where there is an encoder, cross-attention."""
    return 2 if config.decoder_only else 3


def id_flops(config: TransformerConfig) -> int:
    """Operations of scoring one id for one state."""
    return 2 * config.sizes.embedding


def state_flops(config: TransformerConfig) -> int:
    """Operations of projecting one state to the embedding's width; 0 where that is the model's."""
    return 2 * config.emb_dim * config.sizes.embedding if config.sizes.projects else 0


def _prompt_tokens(config: TransformerConfig, sources: np.ndarray) -> np.ndarray:
    """Tokens that the decoder has read before its first step, [B]: of a decoder-only model, the prompt but its last."""
    return np.maximum(sources - 1, 0) if config.decoder_only else np.zeros_like(sources)


def _keys_read(prompt: np.ndarray, work: Work) -> np.ndarray:
    """Positions that one self-attention reads in each column, [B, T]: its own and all before it."""
    return prompt[:, None] + np.arange(1, work.self_attention.shape[1] + 1)


def _encoder_pairs(config: TransformerConfig, sources: Any) -> tuple[Any, Any]:
    """Queries times the keys that each reads in an encoder layer, and block sums among the keys: [B] each."""
    if config.encoder_attention == 'full':
        return sources**2, 0 * sources
    # Without an end, 2r + 1 keys each; r(r + 1) / 2 fall off each end.
    reach = np.minimum(config.local_radius, np.maximum(sources - 1, 0))
    pairs = sources * (2 * reach + 1) - reach * (reach + 1)
    summed = config.encoder_attention == 'transient_global'
    blocks = sources // config.global_block_size if summed else np.zeros_like(sources)
    return pairs + sources * blocks, blocks


def _decisions(work: Any, prefill: Any) -> np.ndarray:
    """What all decisions of a row cost, in units of D, [B]."""
    return work.decisions.sum(axis=1) + prefill.decisions


def _checked(
    config: TransformerConfig, source_tokens: Sequence[int] | np.ndarray, work: Work, prefill: PrefillWork
) -> tuple[np.ndarray, Any, Any]:
    """Source tokens int64 [B], and the counts in float64, checked against each other and the model.

    Any: `Work` and `PrefillWork` of NumPy arrays, where their annotations say those of JAX.
    """
    work = Work._make(np.asarray(count, np.float64) for count in work)
    prefill = PrefillWork._make(np.asarray(count, np.float64) for count in prefill)
    shape = work.self_attention.shape
    if len(shape) != 2:
        raise ValueError(f'work.self_attention has {len(shape)} dimensions; expected counts of each token, [B, T]')
    named = {f'work.{name}': (count, shape) for name, count in work._asdict().items()}
    named |= {f'prefill.{name}': (count, shape[:1]) for name, count in prefill._asdict().items()}
    named |= {'source_tokens': (np.asarray(source_tokens, np.int64), shape[:1])}
    for name, (count, expected) in named.items():
        if count.shape != expected:
            raise ValueError(f'{name} has shape {count.shape}; expected {expected}, as work.self_attention has {shape}')
        if (count < 0).any():
            raise ValueError(f'{name} has a count of {count.min():g}; expected 0 or more')
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    cross, prompt = (0, decoder) if config.decoder_only else (decoder, 0)
    for name, most in zip(PrefillWork._fields, (encoder, encoder, cross, prompt, prompt, prompt, prompt)):
        count = getattr(prefill, name)
        if (count > most).any():
            raise ValueError(f'prefill.{name} has a count of {count.max():g}; the model has {most} such layers')
    if (prefill.dropped_tokens > named['source_tokens'][0]).any():
        raise ValueError(f'prefill.dropped_tokens has a count of {prefill.dropped_tokens.max():g}; more than the source has')
    if config.decoder_only and work.cross_attention.any():
        raise ValueError('work.cross_attention is not 0; a decoder-only model has none')
    return named['source_tokens'][0], work, prefill
