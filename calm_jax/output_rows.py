"""What landed or was read, row by row, as texts with their depth, cost and plan."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.answers import Answer
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.data.windows import DecodeBatch
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding
from calm_jax.flight import Landing
from calm_jax.metrics import cost
from calm_jax.models.config import TransformerConfig
from calm_jax.output import Output, SequencePlan
from calm_jax.readouts import Reading
from calm_jax.request import Request
from calm_jax.types import Plan


class Sources:
    """The sources of a window by their rows of the input, int32 [n] each, looked up when the first is asked for."""

    def __init__(self, window: Sequence[DecodeBatch]):
        self._window = window

    @functools.cached_property
    def _places(self) -> dict[int, tuple[DecodeBatch, int]]:
        return {row: (batch, place) for batch in self._window for place, row in enumerate(batch.rows.tolist()) if row >= 0}

    def __getitem__(self, row: int) -> np.ndarray:
        batch, place = self._places[row]
        return batch.tokens[place][batch.mask[place]]


class OutputRows(NamedTuple):
    """Makes the outputs of a request to a model with this configuration and tokenizer."""

    config: TransformerConfig
    tokenizer: Tokenizer
    request: Request

    def landed(self, landing: Landing, sources: Sources) -> dict[int, Output]:
        """Of what was decoded, by row of the input."""
        trace, source_tokens = landing.trace, landing.source_tokens
        flops = cost.exact(self.config, source_tokens, trace.work, trace.prefill).total
        paper = cost.elbayad(self.config, source_tokens, trace.work, trace.prefill).total
        # Of one sequence: a search runs several side by side, whose work is counted together.
        layers = cost.layers(self.config, trace.work) / beams(self.request.decoding)
        per_layer = cost.sub_layers(self.config)
        outputs = {}
        for row, index in enumerate(landing.rows.tolist()):
            length = int(trace.lengths[row])
            tokens = trace.tokens[row, :length].tolist()
            scores = trace.log_probabilities
            outputs[index] = Output(
                text=self.tokenizer.decode([each for each in tokens if each not in self.config.eos_ids]),
                tokens=tokens,
                pieces=self.tokenizer.pieces(tokens),
                exit_layers=trace.exit_layers[row, :length].tolist(),
                sub_layers=np.rint(layers[row, :length] * per_layer).astype(int).tolist(),
                confidence=trace.confidence[row, :length].tolist(),
                layers=float(np.mean(layers[row, :length])) if length else 0.0,
                flops=float(flops[row]),
                flops_elbayad=float(paper[row]),
                source_tokens=int(source_tokens[row]),
                truncated=bool(landing.truncated[row]),
                batch_seconds=landing.seconds / len(landing.rows),
                log_probabilities=None if scores is None else scores[row, :length].tolist(),
                sequence=index % self.request.sequences,
                text_index=index // self.request.sequences,
                plan=None if trace.plan is None else self._plan(trace.plan, row, sources[index]),
            )
        return outputs

    def read(self, reading: Reading, answer: Callable[[int, np.ndarray], Answer], seconds: float) -> dict[int, Output]:
        """Of what was read for a task, by row of the input. answer: (row, its scores [n, …] or [C]) → what is said of it;
        seconds: of each."""
        config, (given, work, prefill, plan) = self.config, reading.readout
        scores = np.asarray(given)
        lengths = np.array([len(tokens) for tokens in reading.tokens])
        # What reads a text of a decoder-only model are its columns: there is no prompt before them.
        sources = np.ones_like(lengths) if config.decoder_only else lengths
        flops = cost.exact(config, sources, work, prefill).total
        paper = cost.elbayad(config, sources, work, prefill).total
        layers, per_layer = cost.layers(config, work)[:, 0], cost.sub_layers(config)
        outputs = {}
        for place, row in enumerate(reading.rows.tolist()):
            said = answer(row, scores[place, : lengths[place]] if scores.ndim == 3 else scores[place])
            outputs[row] = Output(
                text=said.text,
                tokens=[said.number],
                pieces=[said.text],
                exit_layers=[config.num_decoder_layers],
                sub_layers=[round(layers[place] * per_layer)],
                confidence=[said.confidence],
                layers=float(layers[place]),
                flops=float(flops[place]),
                flops_elbayad=float(paper[place]),
                source_tokens=int(lengths[place]),
                truncated=bool(reading.truncated[place]),
                batch_seconds=seconds,
                text_index=row,
                plan=None if plan is None else self._plan(plan, place, reading.tokens[place]),
            )
        return outputs

    def _plan(self, plan: Plan, row: int, tokens: np.ndarray) -> SequencePlan:
        """Of a row of a trace, whose source has these tokens."""
        crosses = not self.config.decoder_only
        dropped, pieces, choice = [], [], None
        if plan.source is not None:
            dropped = np.flatnonzero(~np.asarray(plan.source[row, : len(tokens)])).tolist()
            pieces = self.tokenizer.pieces(tokens.tolist()) if dropped else []
        if plan.choice is not None and self.request.decoding.plan is not None:
            choice = self.request.decoding.plan.choices[int(plan.choice[row])]
        return SequencePlan(
            self_attention=plan.self_attention[row].tolist(),
            cross_attention=plan.cross_attention[row].tolist() if crosses else [],
            feed_forward=plan.feed_forward[row].tolist(),
            encoder_attention=plan.encoder_attention[row].tolist(),
            encoder_feed_forward=plan.encoder_feed_forward[row].tolist(),
            dropped=dropped,
            source=pieces,
            choice=choice,
        )


def beams(decoding: Decoding) -> int:
    """Sequences of a row that run side by side."""
    return decoding.choice.size if isinstance(decoding.choice, Beam) else 1
