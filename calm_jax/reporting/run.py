"""What a RUN directory holds, as values: certificates, results, curves, trials, sensitivities, ranks, confidences,
similarities, oracles, examples, plans, training.

Exit layers count from 1 to L; layers are sub-layers that ran over those of a layer. Paths are relative to the directory.
"""

import pathlib
from dataclasses import dataclass, field

from calm_jax.schemas import Example, Point


@dataclass(frozen=True)
class Provenance:
    """Where results come from; each field as written by whoever ran it, None where it was not."""

    command: str | None
    machine: str | None
    date: str | None
    seed: str | None


@dataclass(frozen=True)
class Tested:
    """A point that a calibration tested, with what it measured. decoding: its document; threshold: its λ, if it has one."""

    decoding: dict
    threshold: float | None
    loss: float | None
    p_value: float


@dataclass(frozen=True)
class Certificate:
    """One calibration's outcome: the promise in a sentence, and the point that keeps it.

    decoding: the document to decode with; threshold: λ, where the point has one. full_depth: whether no point was valid.
    measure: that of the points, where they have one and the same. `tolerances` holds one (risk, δ) pair, with risk '' unless
    there are several. `circumstances` is what else the guarantee depends on, as (name, value) pairs.
    """

    path: pathlib.Path
    measure: str | None
    objective: str | None
    metric: str | None
    tolerances: tuple[tuple[str, float], ...]
    epsilon: float
    n: int
    p_value: str
    decoding: dict
    threshold: float | None
    full_depth: bool
    tolerance_used: float | None
    tested: tuple[Tested, ...]
    guarantee: str
    circumstances: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Column:
    """A column of a results table: the key in each row, the name to print, the unit ('' for none), and what it means, where
    that is said."""

    key: str
    name: str
    unit: str
    meaning: str = ''


@dataclass(frozen=True)
class Results:
    """A table; rows hold a string, a number, a truth value or None for every column. note: what is to be read with it, if
    anything."""

    path: pathlib.Path
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, str | float | bool | None], ...]
    note: str | None = None


@dataclass(frozen=True)
class Curve:
    """Quality against cost over the settings of one confidence measure, static depth or oracle, in test order.

    `tolerances` as in a certificate, empty where nothing was tested. FLOPs are per token. data: the name of the examples' file.
    """

    path: pathlib.Path
    label: str
    kind: str
    num_layers: int
    metric: str
    objective: str | None
    tolerances: tuple[tuple[str, float], ...]
    epsilon: float | None
    n: int | None
    points: tuple[Point, ...]
    full: Point | None
    data: str | None = None


@dataclass(frozen=True)
class Trial:
    """One random split: λ of the chosen point (None: it has none, or full depth), the risk on each part, the mean layers."""

    threshold: float | None
    test_risk: float
    pool_risk: float | None
    layers: float


@dataclass(frozen=True)
class Tolerance:
    """All trials at one tolerance δ; shares count the trials whose risk is above δ, in [0, 1]."""

    tolerance: float
    share_test_above: float | None
    share_pool_above: float | None
    risk_mean: float
    risk_std: float
    layers_mean: float
    layers_std: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Trials:
    """Repeated random splits into calibration and test data, over a range of tolerances in rising order."""

    path: pathlib.Path
    label: str
    objective: str | None
    metric: str
    epsilon: float
    trials: int
    n_calibration: int | None
    n_test: int | None
    tolerances: tuple[Tolerance, ...]
    note: str | None


@dataclass(frozen=True)
class Sensitivity:
    """Mean score of the output after one token was disturbed at a position, by sampling and by an early layer."""

    path: pathlib.Path
    metric: str
    positions: tuple[float, ...]
    sampling: tuple[float, ...]
    layer: tuple[float, ...]


@dataclass(frozen=True)
class Ranks:
    """Where each layer of one model ranks the final token: quantiles 5, 25, 50, 75 and 95%, and the share ranked first."""

    path: pathlib.Path
    label: str
    quantiles: tuple[tuple[float, ...], ...]
    first: tuple[float, ...]


@dataclass(frozen=True)
class Confidences:
    """By layer of one model: mean confidence of a measure, share of tokens that would be right there, and share where pruning
    or a contrast changes what would be said; in what share of pairs it is surer of a right token than of a wrong one, and the
    same of the measure over all ids: None where all tokens are right or wrong, empty where the file does not say."""

    path: pathlib.Path
    label: str
    measure: str
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    unlike: tuple[float, ...]
    auc: tuple[float | None, ...] = ()
    auc_whole: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class StaticPlan:
    """One plan for all texts: mean layers and mean score; layers × tokens, None where tokens are not known."""

    name: str
    layers: float
    score: float
    layer_tokens: float | None


@dataclass(frozen=True)
class Allocation:
    """An oracle's choice at one budget of mean layers: how many texts of each bin of lengths have which plan, and the χ² test
    of whether their shares are the same in all bins, None where there is nothing to test."""

    budget: float
    counts: tuple[tuple[int, ...], ...]
    statistic: float | None
    degrees: int
    p_value: float | None


@dataclass(frozen=True)
class TokenOracle:
    """Over budgets of layers × tokens: mean scores that are reached, and that no choice exceeds; their largest distance; of
    plans mixed at random; where the full plan is matched. settled: (budget, score that is reached, bound) of some."""

    budgets: tuple[float, ...]
    stair: tuple[float, ...]
    hull: tuple[float, ...]
    mixing: tuple[float | None, ...]
    gap: float
    match: float
    settled: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Oracle:
    """What a choice of plan by text could come to.

    plans: by rising layers, the last the full one. budgets: of mean layers; curves: by name a number for each, None where it
    has none: mean scores 'oracle', 'greedy', 'static', 'mixing', and, of two decodes, 'attainable' and 'informed' at the costs
    'attainable_layers' and 'informed_layers', with '…_advantage' over 'mixing' there and its standard '…_error';
    'sampling_advantage' and 'allocation_advantage'. shares: of texts, a row for each
    budget. named: budgets to print. match: the least at which the oracle scores what the full plan does. gap: how far the
    oracle may lie below the best, 0 where it is exact. lengths_of: what the bins of `allocations` are of.
    """

    path: pathlib.Path
    label: str
    metric: str
    num_layers: int
    texts: int
    plans: tuple[StaticPlan, ...]
    budgets: tuple[float, ...]
    curves: dict[str, tuple[float | None, ...]]
    shares: tuple[tuple[float, ...], ...]
    named: tuple[float, ...]
    match: float
    gap: float
    lengths_of: str
    allocations: tuple[Allocation, ...]
    by_tokens: TokenOracle | None


@dataclass(frozen=True)
class Interval:
    """A mean over texts, and half of its 95% interval, None of a single text."""

    mean: float
    margin: float | None


@dataclass(frozen=True)
class ReducedRun:
    """Cosines of the states of a run of `cost` layers with the full model's: of the final state, of the mean over the layers
    before, and of each layer's."""

    method: str
    cost: int
    final: Interval
    intermediate: Interval
    by_layer: tuple[Interval, ...]


@dataclass(frozen=True)
class Similarity:
    """How near runs of one model with fewer layers stay to its states. prompt: what prompts ran, in words."""

    path: pathlib.Path
    label: str
    num_layers: int
    texts: int
    prompt: str
    runs: tuple[ReducedRun, ...]


@dataclass(frozen=True)
class Examples:
    """Examples of one model of `num_layers` decoder layers. data: the name of the file they are from."""

    path: pathlib.Path
    num_layers: int
    examples: tuple[Example, ...]
    data: str | None = None


@dataclass(frozen=True)
class CutSource:
    """A decoded text whose plan dropped tokens of its source. id: of its record; pieces: of the source; dropped: places among
    them; choice: what was chosen, where the plan maker names it; output: the text that was generated."""

    id: str
    pieces: tuple[str, ...]
    dropped: frozenset[int]
    choice: str | None
    output: str


@dataclass(frozen=True)
class Plans:
    """The plans of a decoded file's texts.

    label: the plan maker with its numbers. sub_layers: kinds of sub-layers, such as 'encoder attention', each with how many
    layers have it. counts: the different plans, of each kind a text with 1 for each layer that ran, and how many texts had
    each. choices: how many texts had which choice of source tokens, empty where none is named. cut: some texts with dropped
    tokens.
    """

    path: pathlib.Path
    label: str
    sub_layers: tuple[tuple[str, int], ...]
    counts: tuple[tuple[tuple[str, ...], int], ...]
    choices: dict[str, int]
    cut: tuple[CutSource, ...]


Series = tuple[tuple[int, float], ...]
"""(step, number), steps rising."""


@dataclass(frozen=True)
class PolicyTraining:
    """What else a policy's run logs. batches: of each step's batch, evaluated: at evaluations, by the names in the file. At
    evaluations too, runs: (step, by kind of sub-layer the share of texts that run each layer); choices: (step, the share of
    each choice of source tokens)."""

    batches: dict[str, Series]
    evaluated: dict[str, Series]
    runs: tuple[tuple[int, dict[str, tuple[float, ...]]], ...]
    choices: tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Training:
    """A run of training: (step, loss) of batches and at evaluations; losses has one or more. policy: of a policy's run."""

    path: pathlib.Path
    losses: Series
    evaluations: Series
    policy: PolicyTraining | None = None


@dataclass(frozen=True)
class Run:
    """Everything a report draws, in the order of the files' paths."""

    directory: pathlib.Path
    certificates: list[Certificate] = field(default_factory=list)
    results: list[Results] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    trials: list[Trials] = field(default_factory=list)
    sensitivities: list[Sensitivity] = field(default_factory=list)
    ranks: list[Ranks] = field(default_factory=list)
    confidences: list[Confidences] = field(default_factory=list)
    oracles: list[Oracle] = field(default_factory=list)
    similarities: list[Similarity] = field(default_factory=list)
    examples: list[Examples] = field(default_factory=list)
    plans: list[Plans] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    provenances: list[Provenance] = field(default_factory=list)
    files: list[pathlib.Path] = field(default_factory=list)
