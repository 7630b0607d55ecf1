"""How far a choice of depth by text could go (Glavas et al. 2024, §3.3 and A.5): oracles over the outputs of several plans.

An oracle sees the scores it chooses by, so that part of its advantage is luck: the best of several outputs scores well even
where all plans are alike. Of two sampled outputs for each plan and text the attainable oracle chooses by one and is scored by
the other: what is left is what the text says of the plan. One output says that with noise; the informed oracle therefore
chooses by what the scores of one decode predict of the other's, which for the rest is what the plans score on average.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from calm_jax.analysis.knapsack import EveryBudget, Frontier, Hull, frontier, optimum

POINTS = 97  # budgets along an axis that are drawn, beside those that have a name
BIN = 15  # tokens, or words, of a bin of lengths
BINS = 11  # of which the last holds all that is longer
FOLDS = 10  # of texts, each predicted by the others
EQUAL = 1e-9  # a mean score that lacks less of another is as high


class PredictionSets(NamedTuple):
    """Outputs of the same n texts under K plans, decoded D times, once or twice.

    names: of the plans; scores, layers: float64 [D, n, K], what each output scores and the mean layers of its tokens;
    tokens: int [D, n, K], how many it has, None where that is not recorded; lengths: int [n], which bin a text falls into.
    """

    names: tuple[str, ...]
    scores: np.ndarray
    layers: np.ndarray
    tokens: np.ndarray | None
    lengths: np.ndarray

    def by_cost(self) -> 'PredictionSets':
        """The same with the plans by rising mean layers."""
        order = np.argsort(self.layers.mean(axis=(0, 1)), kind='stable')
        names = tuple(self.names[place] for place in order)
        tokens = None if self.tokens is None else self.tokens[..., order]
        return PredictionSets(names, self.scores[..., order], self.layers[..., order], tokens, self.lengths)


class Homogeneity(NamedTuple):
    """A χ² test of whether rows of counts have the same distribution: the statistic, its degrees of freedom and the p-value;
    None where there are not two rows and two columns with anything in them."""

    statistic: float | None
    degrees: int
    p_value: float | None


def study(
    sets: PredictionSets, num_layers: int, budgets: Sequence[float] = (), token_budgets: Sequence[float] = ()
) -> dict[str, Any]:
    """What oracle.json holds and `calm report` draws, of plain numbers.

    budgets: of mean layers, token_budgets: of mean layers × tokens, to be reported beside those of the plans. Raises
    ValueError for one below what the cheapest plan of each text comes to on average.
    """
    sets = sets.by_cost()
    columns = {'layers': sets.layers, 'score': sets.scores, **({} if sets.tokens is None else {'tokens': sets.tokens})}
    means = {name: each.mean(axis=(0, 1)).tolist() for name, each in columns.items()}
    frontiers = [frontier(*each) for each in zip(sets.scores, sets.layers)]
    named, match = _named(frontiers, sets.layers, budgets), _match(sets.scores, frontiers)
    axis = _axis(frontiers, sets.layers, [*named, match])
    choices = np.stack([each.choices(axis) for each in frontiers])
    shares = np.mean([_shares(each, len(sets.names)) for each in choices], axis=0)
    curves = _by_layers(sets, frontiers, axis, choices)
    at = int(np.searchsorted(axis, match))
    ends = dict.fromkeys([match, max(means['layers']), *map(float, budgets)])
    return {
        'num_layers': num_layers,
        'texts': int(sets.scores.shape[1]),
        'decodes': len(sets.scores),
        'plans': [{'name': name, **dict(zip(means, each))} for name, each in zip(sets.names, zip(*means.values()))],
        'by_layers': {
            **curves,
            'shares': shares.tolist(),
            'named': named.tolist(),
            'settled': [] if curves['exact'] else _settled(sets.scores, sets.layers, frontiers, named),
        },
        'match': {
            'budget': match,
            'of_layers': match / num_layers,
            'score': curves['oracle'][at],
            'shares': shares[at].tolist(),
        },
        'lengths': [_by_length(sets, budget, choices[0, int(np.searchsorted(axis, budget))]) for budget in ends],
        **({} if sets.tokens is None else {'by_tokens': _by_tokens(sets, token_budgets)}),
    }


def greedy(scores: np.ndarray, costs: np.ndarray, budget: float) -> float | None:
    """The mean score where each text has its best output that costs no more than the budget; None where a text has none.

    scores, costs: [n, K].
    """
    best = np.where(costs <= budget * (1 + 1e-12), scores, -np.inf).max(axis=1)
    return float(best.mean()) if np.isfinite(best).all() else None


def static(scores: np.ndarray, costs: np.ndarray, budget: float) -> float | None:
    """The mean score of the costliest plan whose mean cost is within the budget; None where none is. scores, costs: [n, K]."""
    means, mean_scores = costs.mean(axis=0), scores.mean(axis=0)
    allowed = np.flatnonzero(means <= budget * (1 + 1e-12))
    return float(mean_scores[max(allowed, key=lambda place: (means[place], mean_scores[place]))]) if len(allowed) else None


def mixing(scores: np.ndarray, costs: np.ndarray, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
    """The shares of the plans, [M, K], where each text draws one, by shares that are the same for all texts and the best within
    each budget: those whose mean costs and scores are on the upper concave hull. NaN below the cheapest plan.

    scores, costs: [n, K].
    """
    hull = Hull(scores.mean(axis=0)[None], costs.mean(axis=0)[None])
    shares = np.full((len(budgets), scores.shape[1]), np.nan)
    for place, budget in enumerate(budgets):
        if budget >= hull.budgets[0] * (1 - 1e-12):
            along = np.interp(budget, hull.budgets, np.arange(len(hull.budgets)))
            ends = hull.choices(hull.budgets[[int(np.floor(along)), int(np.ceil(along))]])[:, 0]
            shares[place] = 0
            np.add.at(shares[place], ends, [1 - along % 1, along % 1])
    return shares


class Attained(NamedTuple):
    """Of a choice that is scored by what it has not seen, at each of M budgets: mean score and cost; its advantage over plans
    mixed at random at that cost, and the standard error of that over texts, NaN below the cheapest plan."""

    score: np.ndarray
    cost: np.ndarray
    advantage: np.ndarray
    error: np.ndarray


def attainable(scores: np.ndarray, costs: np.ndarray, choices: np.ndarray) -> Attained:
    """What comes of it where one decode chooses and the other is scored, the mean of both directions.

    scores, costs: [2, n, K]; choices: int [2, M, n], by either decode. It is what a choice by one output of each plan comes to,
    without luck: whoever knew the expected score of each plan could do no worse.
    """
    texts = np.arange(scores.shape[1])
    score, cost = (
        np.mean([each[other][texts, chosen] for other, chosen in ((1, choices[0]), (0, choices[1]))], axis=0)
        for each in (scores, costs)
    )
    shares = mixing(scores.mean(axis=0), costs.mean(axis=0), cost.mean(axis=1))
    advantage = score - shares @ scores.mean(axis=0).T
    error = advantage.std(axis=1, ddof=min(1, len(texts) - 1)) / np.sqrt(len(texts))
    return Attained(score.mean(axis=1), cost.mean(axis=1), advantage.mean(axis=1), error)


def predicted(scores: np.ndarray) -> np.ndarray:
    """What the scores of either decode say of the other's, less each text's mean, [2, n, K] of [2, n, K].

    Least squares from how far the scores of one decode lie above the plans' averages, fitted to nine tenths of the texts and
    applied to the tenth: no text has a part in how it is predicted. Where one decode says nothing of the other, what is left
    are the plans' averages, the same for all texts.
    """
    known, wanted = scores - scores.mean(axis=(0, 1)), scores - scores.mean(axis=2, keepdims=True)
    average, folds = wanted.mean(axis=(0, 1)), np.arange(scores.shape[1]) % FOLDS
    results = np.empty_like(scores)
    for fold in range(FOLDS):
        own, others = folds == fold, folds != fold
        either, other = np.concatenate(known[:, others]), np.concatenate((wanted - average)[::-1, others])
        results[:, own] = average + known[:, own] @ np.linalg.lstsq(either, other, rcond=None)[0]
    return results


def homogeneity(counts: np.ndarray) -> Homogeneity:
    """Whether the rows of counts [bins, K] are draws from the same distribution; empty rows and columns are left out."""
    counts = np.asarray(counts, np.float64)
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    rows, columns = counts.shape
    degrees = max(0, (rows - 1) * (columns - 1))
    if not degrees:
        return Homogeneity(None, 0, None)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return Homogeneity(statistic, degrees, chi_squared_p(statistic, degrees))


def chi_squared_p(statistic: float, degrees: int) -> float:
    """How likely a χ² variable of so many degrees of freedom is at least as large."""
    return float(stats.chi2.sf(statistic, degrees))


def length_bins(lengths: np.ndarray) -> np.ndarray:
    """The bin of each length, int [n]: 0 holds up to 15, 1 up to 30, …, 9 up to 150, 10 whatever is longer."""
    return np.clip((np.asarray(lengths) - 1) // BIN, 0, BINS - 1)


def _by_layers(
    sets: PredictionSets, frontiers: Sequence[EveryBudget | Hull], budgets: np.ndarray, choices: np.ndarray
) -> dict[str, Any]:
    """Every curve over budgets of mean layers, means over the decodes. choices: int [D, M, n], of the oracles."""
    decodes = list(zip(sets.scores, sets.layers))
    curves = {
        'oracle': _mean([each.score(budgets).tolist() for each in frontiers]),
        'upper': _mean([each.upper(budgets).tolist() for each in frontiers]),
        'layers': _mean_of(sets.layers, choices).mean(axis=0).tolist(),
        'greedy': _mean([[greedy(*each, budget) for budget in budgets] for each in decodes]),
        'static': _mean([[static(*each, budget) for budget in budgets] for each in decodes]),
        'mixing': _mixed(sets.scores, sets.layers, budgets),
    }
    if len(decodes) == 2:
        informed = [frontier(*each).choices(budgets) for each in zip(predicted(sets.scores), sets.layers)]
        for name, each in (('attainable', choices), ('informed', np.stack(informed))):
            attained = attainable(sets.scores, sets.layers, each)
            curves |= {name: _numbers(attained.score), f'{name}_layers': _numbers(attained.cost)}
            curves |= {f'{name}_advantage': _numbers(attained.advantage), f'{name}_error': _numbers(attained.error)}
    return {
        'exact': all(isinstance(each, EveryBudget) for each in frontiers),
        'gap': max((each.gap for each in frontiers if isinstance(each, Hull)), default=0.0),
        'budgets': budgets.tolist(),
        **curves,
        'sampling_advantage': _difference(curves['greedy'], curves['static']),
        'allocation_advantage': _difference(curves['oracle'], curves['greedy']),
    }


def _by_tokens(sets: PredictionSets, asked: Sequence[float]) -> dict[str, Any]:
    """The hull over budgets of mean layers × tokens, and what a mixed-integer program makes of those that have a name."""
    assert sets.tokens is not None
    costs = sets.layers * sets.tokens
    hulls = [Hull(*each) for each in zip(sets.scores, costs)]
    named = _named(hulls, costs, asked)
    match = _match(sets.scores, hulls)
    budgets = _axis(hulls, costs, [*named, match])
    return {
        'gap': max(each.gap for each in hulls),
        'budgets': budgets.tolist(),
        'stair': _mean([each.score(budgets).tolist() for each in hulls]),
        'hull': _mean([each.upper(budgets).tolist() for each in hulls]),
        'mixing': _mixed(sets.scores, costs, budgets),
        'plans': costs.mean(axis=(0, 1)).tolist(),
        'match': match,
        'settled': _settled(sets.scores, costs, hulls, named),
    }


def _by_length(sets: PredictionSets, budget: float, choices: np.ndarray) -> dict[str, Any]:
    """How many texts of each bin of lengths have which plan, in the first decode, and the test of whether the shares are the
    same in all bins. choices: int [n], the oracle's at this budget."""
    counts = np.zeros((BINS, len(sets.names)), int)
    np.add.at(counts, (length_bins(sets.lengths), choices), 1)
    return {'budget': budget, 'counts': counts.tolist(), **homogeneity(counts)._asdict()}


def _match(scores: np.ndarray, frontiers: Sequence[Frontier]) -> float:
    """The least budget at which the oracle scores what the full plan does, which is the last; means over the decodes."""
    steps = np.unique(np.concatenate([each.budgets for each in frontiers]))
    steps = steps[steps >= _lowest(frontiers)]
    reached = np.mean([each.score(steps) for each in frontiers], axis=0) >= scores[..., -1].mean() - EQUAL
    return float(steps[np.argmax(reached)])


def _named(frontiers: Sequence[Frontier], costs: np.ndarray, asked: Sequence[float]) -> np.ndarray:
    """Budgets that are reported, rising: the mean costs of the plans, and those asked for."""
    for each in frontiers:
        each.score(asked)  # refuses what no choice can keep
    means = costs.mean(axis=(0, 1))
    return np.unique([*means[means >= _lowest(frontiers) * (1 - 1e-12)], *asked])


def _lowest(frontiers: Sequence[Frontier]) -> float:
    return max(each.budgets[0] for each in frontiers)


def _axis(frontiers: Sequence[Frontier], costs: np.ndarray, named: Sequence[float] | np.ndarray) -> np.ndarray:
    """Budgets that are drawn, rising: evenly spaced from the cheapest choice to the costliest plan, closer where the scores
    rise fast, and those that have a name."""
    lowest, steps = _lowest(frontiers), frontiers[0].budgets
    even = np.linspace(lowest, max(lowest, costs.mean(axis=(0, 1)).max()), POINTS)
    levels = np.linspace(frontiers[0].scores[0], frontiers[0].scores[-1], POINTS // 4)[1:-1]
    rising = steps[np.searchsorted(frontiers[0].scores, levels)]
    drawn = np.unique(np.concatenate([even, rising[rising >= lowest]]))
    near = np.abs(drawn[:, None] - np.asarray(named)).min(axis=1) < 1e-9
    return np.unique(np.concatenate([drawn[~near], named]))


def _settled(scores: np.ndarray, costs: np.ndarray, hulls: Sequence[Frontier], budgets: np.ndarray) -> list[dict[str, float]]:
    """Of each budget the optimum, or what is proven of it: a score that is reached, and a bound that is not exceeded."""
    settled = []
    for budget in budgets.tolist():
        optima = [
            optimum(one, cost, budget, hull if isinstance(hull, Hull) else None)
            for one, cost, hull in zip(scores, costs, hulls)
        ]
        score, bound = (float(np.mean([getattr(each, name) for each in optima])) for name in ('score', 'bound'))
        settled.append({'budget': budget, 'score': score, 'bound': bound})
    return settled


def _mixed(scores: np.ndarray, costs: np.ndarray, budgets: np.ndarray) -> list[float | None]:
    """Mean scores of plans mixed at random, of [D, n, K]."""
    return _numbers(mixing(scores.mean(axis=0), costs.mean(axis=0), budgets) @ scores.mean(axis=(0, 1)))


def _numbers(values: np.ndarray) -> list[float | None]:
    """As JSON has them, which has no NaN."""
    return [None if np.isnan(each) else float(each) for each in values]


def _mean_of(values: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """The mean over texts of what was chosen, [D, M], of values [D, n, K] and choices [D, M, n]."""
    rows = np.arange(values.shape[1])
    return np.array([[each[rows, chosen].mean() for chosen in group] for each, group in zip(values, choices)])


def _shares(choices: np.ndarray, plans: int) -> np.ndarray:
    """The share of texts that have each plan, [M, K], of choices [M, n]."""
    return np.stack([(choices == place).mean(axis=1) for place in range(plans)], axis=1)


def _mean(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over decodes; None where one has none."""
    return [None if None in each else float(np.mean(each)) for each in zip(*curves)]  # pyright: ignore


def _difference(one: Sequence[float | None], other: Sequence[float | None]) -> list[float | None]:
    return [None if high is None or low is None else high - low for high, low in zip(one, other)]
