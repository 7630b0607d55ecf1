"""How fast a decoding is against full depth, here and now: the same texts through the same model, interleaved."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from calm_jax.calibration.certificate import AS_BEFORE
from calm_jax.certified import environment, kept_together, speed_conditions
from calm_jax.data.windows import row_bucket
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import of_use
from calm_jax.decoding.packing import Packing
from calm_jax.model import Model
from calm_jax.output import DecodeReport
from calm_jax.progress import progress
from calm_jax.request import PACKS

Item = TypeVar('Item')
BATCHES, ROUNDS = 4, 3  # full batches that are decoded in a round; rounds that are timed
LEAST_TEXTS = 32  # in a round, however small its batches


class Timed(NamedTuple):
    """Rounds over the same texts. seconds: float64 [rounds, m], of m decodings; tokens: int [m], that each generates; reports:
    of each, what its parts took, in the last round."""

    seconds: np.ndarray
    tokens: np.ndarray
    reports: list[list[DecodeReport]]


def time_decodings(
    model: Model,
    decodings: Sequence[Decoding],
    texts: Sequence[str],
    batch_size: int,
    rounds: int = ROUNDS,
    quiet: bool = True,
    pack: str | Packing = PACKS[0],
) -> Timed:
    """Decodes the texts under each decoding in turn, every other round in reverse; a first round, which compiles, is dropped.

    Seconds are of all that decoding takes, from texts to texts. pack: as `calm_jax.request.Options`; 'auto' is that of these
    texts, and `Model.pack_of` says what it is of more; a packing is of those decodings that have a use for it. ValueError for
    no texts.
    """
    if not len(texts):
        raise ValueError('texts: expected one or more to time, found none')
    ways = [(of_use(pack, each) or 'refill') if isinstance(pack, Packing) else pack for each in decodings]
    seconds, tokens = np.zeros((1 + rounds, len(decodings))), np.zeros(len(decodings), int)
    reports: list[list[DecodeReport]] = [[] for _ in decodings]
    for number in progress(range(1 + rounds), 'timing', quiet=quiet, unit='rounds'):
        order = range(len(decodings))
        for index in order if number % 2 else reversed(order):
            reports[index] = []
            began = perf_counter()
            outputs = model.stream(
                texts, decodings[index], batch_size=batch_size, pack=ways[index], watch=reports[index].append
            )
            tokens[index] = sum(len(each.tokens) for each in outputs)
            seconds[number, index] = perf_counter() - began
    return Timed(seconds[1:], tokens, reports)


def measure_speed(
    model: Model,
    decoding: Decoding,
    texts: Sequence[str],
    batch_size: int,
    rounds: int = ROUNDS,
    quiet: bool = True,
    pack: str | Packing = PACKS[0],
) -> dict[str, Any]:
    """What a certificate and a summary hold of a decoding's speed: speed_up, the median over the rounds of full depth's seconds
    over the decoding's, with the least and the greatest; tokens_per_second of either; and what it was measured with. A few of
    the texts are timed, packed as all of them would be.

        speed = calm.measure_speed(model, calm.Decoding(exit=calm.Exit(calm.StateSimilarity(), 0.9)), texts, batch_size=32)
    """
    resolved = model.resolve(decoding)
    pack, rows = model.pack_of(len(texts), batch_size, pack), row_bucket(len(texts), batch_size)
    texts = few(texts, batch_size)
    timed = time_decodings(model, [resolved.full(), resolved], texts, batch_size, rounds, quiet, pack)
    ratios = timed.seconds[:, 0] / timed.seconds[:, 1]
    way = kept_together(resolved, pack)
    full, early = (timed.tokens / np.median(timed.seconds, axis=0)).tolist()
    return {
        'speed_up': float(np.median(ratios)),
        'speed_up_least': float(ratios.min()),
        'speed_up_greatest': float(ratios.max()),
        'tokens_per_second': early,
        'tokens_per_second_full': full,
        'texts': len(texts),
        'rounds': rounds,
        **environment(rows, way),
        **speed_conditions(rows, way),
    }


def few(texts: Sequence[Item], batch_size: int) -> list[Item]:
    """Those of the texts, or of their places, that are decoded in a round."""
    return sample(texts, max(BATCHES * batch_size, LEAST_TEXTS))


def sample(texts: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the texts, or of their places, evenly spaced: a file may be sorted."""
    count = min(count, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


def in_words(speed: dict[str, Any]) -> str:
    """'1.31 × full depth (1.25–1.40), batch size 32, pack refill, AMD EPYC, 2 cores'; what is slower is called so."""
    slower = 'slower than full depth: ' if speed['speed_up'] < 1 else ''
    return (
        f'{slower}{speed["speed_up"]:.2f} × full depth ({speed["speed_up_least"]:.2f}–{speed["speed_up_greatest"]:.2f}), '
        f'batch size {speed["batch_size"]}, pack {speed.get("pack", AS_BEFORE["pack"])}, {speed["device"]}'
    )
