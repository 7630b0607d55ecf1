"""A model ready to use: parameters, tokenizer, heads; texts in, texts with their depth and cost out."""

import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.data.windows import DecodeBatch, decode_windows
from calm_jax.decoding.beam import beam_search
from calm_jax.decoding.constraints import Constraints
from calm_jax.decoding.generate import generate
from calm_jax.decoding.propagation import Lazy
from calm_jax.decoding.sampling import Greedy
from calm_jax.metrics import cost
from calm_jax.models.config import TransformerConfig
from calm_jax.models.joined import join, split
from calm_jax.models.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class Output:
    """One decoded example.

    text; tokens: ids, end-of-sequence included; pieces: one printable string per token.
    exit_layers: layers visited per token, 1…L; layers_run: those of them that ran; confidence: at each exit.
    executed: layers per step that the batch ran while this row was in it: what costs time.
    flops, flops_elbayad: of the whole example, exact and as the paper counts (`calm_jax.metrics.cost`).
    source_tokens: with the end-of-sequence; truncated: whether the input was longer than the limit.
    batch_seconds: wall time of the batch it was decoded in, over the batch's rows.
    """

    text: str
    tokens: list[int]
    pieces: list[str]
    exit_layers: list[int]
    layers_run: list[int]
    confidence: list[float]
    executed: float
    flops: float
    flops_elbayad: float
    source_tokens: int
    truncated: bool
    batch_seconds: float

    @property
    def layers(self) -> float:
        """Mean exit layer per token."""
        return float(np.mean(self.exit_layers)) if self.exit_layers else 0.0


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its tokenizer and trained heads; `load` makes one.

    params: laid out for decoding (`calm_jax.models.joined`; change them apart, `join(split(params), config)`, or a tied head
    keeps its copy), or under t5x's names, which decode alike but slower;
    heads: {'exit_classifier': {'kernel': [D, 1], 'bias': [1]}} or None; generation: decoding defaults.
    """

    config: TransformerConfig
    params: dict
    tokenizer: Tokenizer
    heads: dict | None = None
    generation: dict = dataclasses.field(default_factory=dict)

    def head_table(self, exit) -> jax.Array | None:
        """The head as [V, E], where the exit's measure prunes it and it is not the embedding, which is laid out so: made when
        first asked for, and kept."""
        return self._head_table if exit is not None and exit.prunes and not self.config.tied_head else None

    @functools.cached_property
    def _head_table(self):
        return jax.jit(lambda params: Transformer(self.config).apply({'params': params}, method='head_table'))(self.params)

    def save(self, directory: str | os.PathLike, *, dtype: str | None = None, overwrite: bool = False) -> None:
        """Writes a native checkpoint, whole or not at all."""
        native.save(
            directory,
            self.config,
            split(self.params),
            self.tokenizer,
            self.heads,
            self.generation,
            dtype=dtype,
            overwrite=overwrite,
        )

    def generate(self, texts: Sequence[str], **settings) -> 'Outputs':
        """Outputs of the texts, in order, decoded as they are asked for. Arguments as `stream`."""
        return Outputs(self.stream(texts, **settings), len(texts))

    def stream(
        self,
        texts: Iterable[str],
        *,
        exit=None,
        gate=None,
        plan=None,
        propagation=Lazy(),
        sampling=Greedy(),
        constraints=None,
        beam=None,
        max_new_tokens: int | None = None,
        max_source_length: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[Output]:
        """Outputs of any number of texts in bounded memory, in input order, one window of batches at a time.

        exit, gate, propagation, sampling, constraints: as `calm_jax.decoding.generate` takes them. plan: example ids [B] →
        Plan. beam: a `Beam` searches instead, at full depth or within the plan; it takes no exit, gate or sampling.
        max_new_tokens, max_source_length: tokens with the end-of-sequence; the checkpoint's own defaults where None.
        batch_size: rows decoded together. seed: of sampled draws. first: the id of the first text, where an
        interrupted run goes on: a multiple of `calm_jax.data.windows.WINDOW` · batch_size.
        """
        length, source_length = self.limits(max_new_tokens, max_source_length)
        windows = decode_windows(
            map(self.encode, texts), batch_size, max_source_length=source_length, first=first, **self.padding
        )
        key = jax.random.key(seed)
        # On the device once, and not as a host number with every batch.
        if beam is not None and not (exit is None and gate is None and sampling == Greedy()):
            raise ValueError('beam search is greedy and takes no exit or gate; a plan it takes')
        device_exit, device_gate = jax.tree.map(jnp.asarray, (exit, gate))
        for window in windows:
            outputs = {}
            for batch in window:
                batch_plan = None if plan is None else plan(batch.rows)
                began = time.perf_counter()
                common = {'max_new_tokens': length, 'plan': batch_plan}
                if beam is not None:
                    trace = beam_search(
                        self.config, self.params, batch.tokens, beam=beam, constraints=constraints or Constraints(), **common
                    )
                else:
                    trace = generate(
                        self.config,
                        self.params,
                        batch.tokens,
                        exit=device_exit,
                        gate=device_gate,
                        propagation=propagation,
                        sampling=sampling,
                        constraints=constraints,
                        head_table=self.head_table(exit),
                        example_ids=batch.rows.astype(np.int32),
                        key=key,
                        **common,
                    )
                trace = jax.device_get(trace)
                seconds = (time.perf_counter() - began) / max(1, int(np.sum(batch.rows >= 0)))
                sequences = 1 if beam is None else beam.size
                outputs.update(self._outputs(batch, trace, exit, batch_plan, propagation, seconds, sequences))
            yield from (outputs[row] for row in sorted(outputs))

    def encode(self, text: str) -> list[int]:
        """Ids of a source or prompt, without an end of sequence; a decoder alone needs one to start from."""
        ids = self.tokenizer.encode(text)
        return ids or [self.config.decoder_start_id] if self.config.decoder_only else ids

    @property
    def padding(self) -> dict:
        """How `decode_windows` lays out what this model reads: sources end and are padded behind, prompts go on and are padded
        before."""
        alone = self.config.decoder_only
        return {'pad_id': self.config.pad_id, 'eos_id': None if alone else self.config.eos_id, 'left': alone}

    def limits(self, max_new_tokens: int | None, max_source_length: int | None) -> tuple[int, int]:
        """The two limits, in tokens: what is asked for, or else the checkpoint's defaults, or else 128 and 512, as far as the
        model has positions.

        Raises ValueError where more is asked for than there are positions.
        """
        config = self.config
        positions = config.max_positions if config.positions == 'learned' else math.inf
        length = max_new_tokens or self.generation.get('max_new_tokens') or min(128, positions // 2)
        left = positions - (length if config.decoder_only else 0)
        source_length = max_source_length or min(self.generation.get('max_source_length') or 512, left)
        if length > positions or source_length > left or left < 1:
            raise ValueError(
                f'max_new_tokens {length} and max_source_length {source_length}: the model has {positions} positions'
                + (' for both together' if config.decoder_only else ' for each')
            )
        return int(length), int(source_length)

    def _outputs(self, batch: DecodeBatch, trace, exit, plan, propagation, seconds, sequences) -> dict[int, Output]:
        """Outputs of one decoded batch by input index; rows that only filled it up are thrown away."""
        source_tokens = np.sum(batch.tokens != self.config.pad_id, axis=1)
        measured = observation_cost(exit, self.config)
        if exit is not None and exit.threshold >= 1:
            plan = None  # λ ≥ 1 turned it off
        flops = cost.exact(
            self.config,
            source_tokens,
            trace.exit_layers,
            layers_run=trace.layers_run,
            plan=plan,
            propagation=propagation.filling,
            sequences=sequences,
            **measured,
        ).total
        paper = cost.elbayad(
            self.config,
            source_tokens,
            trace.exit_layers,
            confidence_flops_per_layer=measured['confidence_flops_per_layer'],
            predicts=measured['predicts'],
        ).total
        outputs = {}
        for row, index in enumerate(batch.rows.tolist()):
            if index < 0:
                continue
            length = int(trace.lengths[row])
            tokens = trace.tokens[row, :length].tolist()
            outputs[index] = Output(
                text=self.tokenizer.decode(tokens),
                tokens=tokens,
                pieces=self.tokenizer.pieces(tokens),
                exit_layers=trace.exit_layers[row, :length].tolist(),
                layers_run=trace.layers_run[row, :length].tolist(),
                confidence=trace.confidence[row, :length].tolist(),
                executed=float(np.mean(trace.executed[:length])) if length else 0.0,
                flops=float(flops[row]),
                flops_elbayad=float(paper[row]),
                source_tokens=int(source_tokens[row]),
                truncated=bool(batch.truncated[row]),
                batch_seconds=seconds,
            )
        return outputs


class Outputs(Sequence):
    """Outputs that are decoded when they are first asked for, by index or in turn."""

    def __init__(self, stream: Iterator[Output], length: int):
        self._stream, self._length, self._seen = stream, length, []

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f'output {index} of {self._length}')
        index %= self._length
        self._seen.extend(itertools.islice(self._stream, max(0, index + 1 - len(self._seen))))
        return self._seen[index]


def load(directory: str | os.PathLike, dtype: str | None = None) -> Model:
    """The model in a native checkpoint directory.

    dtype: of parameters and activations; None keeps what was stored, but float16, which overflows where these models
    were not trained in it, and on a CPU bfloat16, which is slow there, become float32.
    Raises FileNotFoundError or ValueError, in one line, for a directory that is not a whole checkpoint.
    """
    checkpoint = native.load(directory, dtype)
    params, config = checkpoint.params, checkpoint.config
    if dtype is None:
        stored = str(jnp.result_type(*jax.tree.leaves(params)))
        widen = stored == 'float16' or (stored == 'bfloat16' and jax.default_backend() == 'cpu')
        dtype = 'float32' if widen else stored
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    params = join(jax.tree.map(jnp.asarray, params), config)
    return Model(
        dataclasses.replace(config, dtype=dtype), params, checkpoint.tokenizer, checkpoint.heads, checkpoint.generation or {}
    )


def observation_cost(exit: Any, config: TransformerConfig) -> dict:
    """What an exit's measure costs, in the terms of `metrics.cost`; nothing where exits are off."""
    layers = range(config.num_decoder_layers)
    if exit is None or exit.threshold >= 1:
        return {'confidence_flops_per_layer': [0 for _ in layers], 'predicts': False}
    decides = [layer + 1 >= exit.min_exit_layer for layer in layers]
    return {
        'confidence_flops_per_layer': [
            exit.measure.flops(layer, config.sizes, decides[layer]) if exit.observes(layer) else 0 for layer in layers
        ],
        'predicts': [exit.measure.predicts and each for each in decides],
    }
