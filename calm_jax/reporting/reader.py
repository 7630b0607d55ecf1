"""Reads a RUN directory: whatever earlier stages left in it, found at any depth, and checked.

The files are curve.json, trials.json, examples.json, results.json, sensitivity.json, ranks.json, confidence.json,
similarity.json, oracle.json, certificate*.json and, of training, metrics.jsonl. Certificates, tables and analyses, whose names
a user chooses, are also known by what they hold, and decoded files with plans by their headers. Reading them needs neither a
model nor the packages that wrote them.
"""

import json
import pathlib
from collections.abc import Callable, Iterator

from calm_jax import formats
from calm_jax.reporting import decoded
from calm_jax.reporting.document import Document, load, search
from calm_jax.reporting.run import (
    Allocation,
    Certificate,
    Column,
    Confidences,
    Curve,
    Examples,
    Interval,
    Oracle,
    PolicyTraining,
    Provenance,
    Ranks,
    ReducedRun,
    Results,
    Run,
    Sensitivity,
    Series,
    Similarity,
    StaticPlan,
    Tested,
    TokenOracle,
    Tolerance,
    Training,
    Trial,
    Trials,
)
from calm_jax.schemas import FULL_MODEL, Example, Output, Point

CERTIFICATE_FORMAT = 'calm_jax certificate'
PATTERNS = (
    'certificate*.json',
    'results.json',
    'curve.json',
    'trials.json',
    'sensitivity.json',
    'ranks.json',
    'confidence.json',
    'similarity.json',
    'oracle.json',
    'examples.json',
)
METRICS = 'metrics.jsonl'
# What a policy's stage logs beside the loss, of batches or at evaluations.
POLICY_NUMBERS = (
    'full_loss',
    'cost',
    'entropy',
    'multiplier',
    'above_bound',
    'loss_grad_norm',
    'cost_grad_norm',
    'loss_grad_noise',
)
POLICY_RUNS = {
    'encoder_attention': 'encoder attention',
    'encoder_feed_forward': 'encoder feed-forward',
    'decoder_attention': 'decoder attention',
    'decoder_feed_forward': 'decoder feed-forward',
}
ORACLE_CURVES = (
    'oracle',
    'greedy',
    'static',
    'mixing',
    'attainable',
    'attainable_layers',
    'attainable_advantage',
    'attainable_error',
    'informed',
    'informed_layers',
    'informed_advantage',
    'informed_error',
    'sampling_advantage',
    'allocation_advantage',
)
KINDS = ('measure', 'static', 'oracle')
OBJECTIVES = ('textual', 'risk')

# What a certificate records beside the numbers of its table.
_CIRCUMSTANCES = (
    'procedure',
    'seed',
    'joint',
    'signed',
    'examples',
    'groups',
    'decoding',
    'cost',
    'cost_unit',
    'speed',
    'metric_version',
    'semantics',
    'provenance',
)


def read(directory: str | pathlib.Path) -> Run:
    """Reads every file a report knows from a directory.

    Raises `FileNotFoundError` where the directory is missing or holds none of them, `ValueError` naming file and place
    where one cannot be read.
    """
    directory = pathlib.Path(directory)
    if not directory.exists():
        raise FileNotFoundError(f'{directory}: no such folder; expected one that earlier stages wrote JSON files to')
    if not directory.is_dir():
        raise NotADirectoryError(f'{directory}: a file; expected the folder it lies in')
    run = Run(directory)
    readers = (_certificate, _results, _curve, _trials, _sensitivity, _ranks, _confidences, _similarity, _oracle, _examples)
    contents: list[list] = [run.certificates, run.results, run.curves, run.trials]
    contents += [run.sensitivities, run.ranks, run.confidences, run.similarities, run.oracles, run.examples]
    named = [list(search(directory, pattern)) for pattern in PATTERNS]
    found = _recognized(directory, set().union(*named))
    for reader, paths, into in zip(readers, named, contents, strict=True):
        for path in sorted([*paths, *found.get(reader, ())]):
            document = load(path)
            relative = path.relative_to(directory)
            into.append(reader(document, relative))
            run.files.append(relative)
            provenance = _provenance(document)
            if provenance and provenance not in run.provenances:
                run.provenances.append(provenance)
    for path in decoded.planned_files(directory):
        relative = path.relative_to(directory)
        if (plans := decoded.plans(path, relative)) is not None:
            run.plans.append(plans)
            run.files.append(relative)
    for path in search(directory, METRICS):
        relative = path.relative_to(directory)
        if (training := _training(path, relative)) is not None:
            run.trainings.append(training)
            run.files.append(relative)
    if not run.files:
        raise FileNotFoundError(
            f'{directory}: nothing to report; looked at any depth for {", ".join([*PATTERNS, METRICS])}, for '
            'certificates and tables of other names, and for files that were decoded within plans'
        )
    return run


def _recognized(directory: pathlib.Path, named: set[pathlib.Path]) -> dict[Callable, list[pathlib.Path]]:
    """By reader, the files that are known by what they hold alone; what cannot be read as such is some other program's."""
    found = {}
    for path in search(directory, '*.json'):
        if path in named:
            continue
        try:
            document = load(path)
            reader = _reader_of(document.value)
            if reader is not None and reader is not _certificate:
                reader(document, path)
        except (ValueError, OSError):
            continue
        if reader is not None:
            found.setdefault(reader, []).append(path)
    return found


def _reader_of(content: object) -> Callable | None:
    """What reads a file that holds this; None where its kind is not known by its content."""
    if not isinstance(content, dict):
        return None
    if str(content.get('format')).startswith(CERTIFICATE_FORMAT):
        return _certificate  # it says what it is: a fault in it is the user's to know
    if {'title', 'columns', 'rows'} <= content.keys():
        return _results
    if {'metric', 'positions', 'sampling', 'layer'} <= content.keys():
        return _sensitivity
    analyses = {'ranks': _ranks, 'confidence': _confidences, 'similarity': _similarity, 'oracle': _oracle}
    return analyses.get(str(content.get('analysis')))


def _provenance(document: Document) -> Provenance | None:
    if not document.has('provenance'):
        return None
    node = document.at('provenance')
    fields = [_written(node.at(key).value) if node.has(key) else None for key in ('command', 'machine', 'date', 'seed')]
    return Provenance(*fields) if any(fields) else None


def _certificate(document: Document, path: pathlib.Path) -> Certificate:
    formats.check(document.value, 'certificate', str(document.path), shown=True)
    metric = document.at('metric').value if document.has('metric') else None
    circumstances = {key: document.at(key).value for key in _CIRCUMSTANCES if document.has(key)}
    grid = document.items('grid', at_least=1)
    measures = {_measure(point.at('decoding')) for point in grid}
    return Certificate(
        path=path,
        measure=measures.pop() if len(measures) == 1 else None,
        objective=document.optional_text('objective'),
        metric=None if metric is None else _written(metric),
        tolerances=_tolerances(document.at('tolerance')),
        epsilon=document.number('epsilon', 0, 1),
        n=document.integer('n', low=1),
        p_value=document.text('p_value'),
        decoding=document.at('decoding').object(),
        threshold=document.optional_number('threshold'),
        full_depth=not any(point.has('rejected') and point.at('rejected').value for point in grid),
        tolerance_used=document.optional_number('tolerance_used'),
        tested=tuple(
            Tested(
                point.at('decoding').object(),
                point.optional_number('threshold'),
                point.optional_number('mean_loss'),
                point.number('p_value'),
            )
            for point in grid
            if point.has('p_value')
        ),
        guarantee=document.text('guarantee'),
        circumstances=tuple(leaf for key, value in circumstances.items() for leaf in _leaves(key, value)),
    )


def _measure(decoding: Document) -> str | None:
    """The name of the measure that a decoding document exits by; None where it has none."""
    for key in ('exit', 'measure'):
        if not decoding.has(key):
            return None
        decoding = decoding.at(key)
    return decoding.optional_text('class')


def _tolerances(node: Document) -> tuple[tuple[str, float], ...]:
    risks = list(node.value) if isinstance(node.value, dict) else [None]
    return tuple((risk or '', node.number(risk, -1, 1)) for risk in risks)


def _leaves(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Every value inside, by dotted name; lists are printed whole."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f'{name}.{key}'.removeprefix('provenance.'), inner)
    elif value is not None:
        yield name, _written(value)


def _written(value: object) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _results(document: Document, path: pathlib.Path) -> Results:
    columns = tuple(
        Column(node.text('key'), node.text('name'), node.optional_text('unit') or '', node.optional_text('meaning') or '')
        for node in document.items('columns', at_least=1)
    )
    rows = []
    for node in document.items('rows'):
        row = {}
        for column in columns:
            row[column.key] = cell = node.at(column.key).value if node.has(column.key) else None
            if isinstance(cell, list | dict):
                raise node.at(column.key).error('is a list or an object: expected text, number, truth value or null')
        rows.append(row)
    return Results(path, document.text('title'), columns, tuple(rows), document.optional_text('note'))


def _curve(document: Document, path: pathlib.Path) -> Curve:
    num_layers = document.integer('num_layers', low=1)
    return Curve(
        path=path,
        label=document.text('label'),
        kind=document.choice('kind', KINDS),
        num_layers=num_layers,
        metric=document.text('metric'),
        objective=_objective(document),
        tolerances=_tolerances(document.at('tolerance')) if document.has('tolerance') else (),
        epsilon=document.optional_number('epsilon', 0, 1),
        n=document.integer('n', low=1) if document.has('n') else None,
        points=tuple(_point(node, num_layers) for node in document.items('points', at_least=1)),
        full=_point(document.at('full'), num_layers) if document.has('full') else None,
        data=_data(document),
    )


def _data(document: Document) -> str | None:
    """The name of the data, where a provenance says it."""
    for key in ('provenance', 'data'):
        if not document.has(key) or not isinstance(document.at(key).value, dict):
            return None
        document = document.at(key)
    return document.optional_text('name')


def _point(node: Document, num_layers: int) -> Point:
    rejected = node.at('rejected').value if node.has('rejected') else None
    if rejected not in (None, True, False):
        raise node.at('rejected').error('is not a truth value: expected true, false or null')
    return Point(
        decoding=node.at('decoding').object() if node.has('decoding') else None,
        threshold=node.optional_number('threshold'),
        # A mean of L over many tokens may come out a rounding above L.
        layers=node.number('layers', 0, num_layers * (1 + 1e-9)),
        exit_layers=node.optional_number('exit_layers', 0, num_layers * (1 + 1e-9)),
        flops=node.optional_number('flops', low=0),
        flops_elbayad=node.optional_number('flops_elbayad', low=0),
        quality=node.optional_number('quality'),
        consistency=node.optional_number('consistency'),
        loss=node.optional_number('loss'),
        p_value=node.optional_number('p_value', 0, 1),
        rejected=rejected,
    )


def _trials(document: Document, path: pathlib.Path) -> Trials:
    tolerances = [
        Tolerance(
            tolerance=node.number('tolerance', -1, 1),
            share_test_above=node.optional_number('share_test_above', 0, 1),
            share_pool_above=node.optional_number('share_pool_above', 0, 1),
            risk_mean=node.number('risk_mean'),
            risk_std=node.number('risk_std', low=0),
            layers_mean=node.number('layers_mean', low=0),
            layers_std=node.number('layers_std', low=0),
            trials=tuple(
                Trial(
                    each.optional_number('threshold'),
                    each.number('test_risk'),
                    each.optional_number('pool_risk'),
                    each.number('layers', low=0),
                )
                for each in (node.items('per_trial') if node.has('per_trial') else ())
            ),
        )
        for node in document.items('tolerances', at_least=1)
    ]
    return Trials(
        path=path,
        label=document.text('label'),
        objective=_objective(document),
        metric=document.text('metric'),
        epsilon=document.number('epsilon', 0, 1),
        trials=document.integer('trials', low=1),
        n_calibration=document.integer('n_calibration', low=1) if document.has('n_calibration') else None,
        n_test=document.integer('n_test', low=1) if document.has('n_test') else None,
        tolerances=tuple(sorted(tolerances, key=lambda each: each.tolerance)),
        note=document.optional_text('note'),
    )


def _sensitivity(document: Document, path: pathlib.Path) -> Sensitivity:
    positions = document.numbers('positions', low=0)
    series = {key: document.numbers(key) for key in ('sampling', 'layer')}
    for key, values in series.items():
        if len(values) != len(positions):
            raise document.at(key).error(f'has {len(values)} values: expected {len(positions)}, one for each position')
    if not positions:
        raise document.at('positions').error('is empty: expected at least one position')
    return Sensitivity(path, document.text('metric'), positions, series['sampling'], series['layer'])


def _ranks(document: Document, path: pathlib.Path) -> Ranks:
    first = document.numbers('first', 0, 1)
    quantiles = tuple(layer.numbers(low=1) for layer in document.items('quantiles', at_least=1))
    for layer, values in zip(document.items('quantiles'), quantiles):
        if len(values) != 5 or list(values) != sorted(values):
            raise layer.error(f'has {len(values)} values: expected 5 in rising order')
    if len(first) != len(quantiles):
        raise document.at('first').error(f'has {len(first)} values: expected {len(quantiles)}, one for each layer')
    return Ranks(path, document.text('label'), quantiles, first)


def _confidences(document: Document, path: pathlib.Path) -> Confidences:
    columns: list[tuple] = [document.numbers(key, 0, 1) for key in ('confidence', 'accuracy', 'unlike_head')]
    if document.has('unlike_scores'):
        columns[2] = document.numbers('unlike_scores', 0, 1)
    for key in ('auc', 'auc_whole'):
        shares = document.items(key) if document.has(key) else []
        columns.append(tuple(None if share.value is None else share.number(low=0, high=1) for share in shares))
    for key, column in zip(('accuracy', 'unlike_head', 'auc', 'auc_whole'), columns[1:]):
        if document.has(key) and len(column) != len(columns[0]):
            raise document.at(key).error(f'has {len(column)} values: expected {len(columns[0])}, one for each layer')
    if not columns[0]:
        raise document.at('confidence').error('is empty: expected a number for each layer')
    return Confidences(path, document.text('label'), document.text('measure'), *columns)


def _oracle(document: Document, path: pathlib.Path) -> Oracle:
    by_layers, plans = document.at('by_layers'), document.items('plans', at_least=2)
    tokens = document.at('by_tokens') if document.has('by_tokens') else None
    layer_tokens = tokens.numbers('plans', low=0) if tokens else (None,) * len(plans)
    if len(layer_tokens) != len(plans):
        raise document.at('by_tokens').at('plans').error(f'has {len(layer_tokens)} values: expected {len(plans)}')
    budgets = by_layers.numbers('budgets', low=0)
    shares = tuple(row.numbers(low=0, high=1) for row in by_layers.items('shares'))
    if len(shares) != len(budgets) or any(len(row) != len(plans) for row in shares):
        raise by_layers.at('shares').error(f'is not of {len(budgets)} rows of {len(plans)} numbers, one for each plan')
    match = document.at('match').number('budget', low=0)
    if match not in budgets:
        raise document.at('match').at('budget').error(f'is {match:g}: expected one of the budgets')
    return Oracle(
        path=path,
        label=document.text('label'),
        metric=document.text('metric'),
        num_layers=document.integer('num_layers', low=1),
        texts=document.integer('texts', low=1),
        plans=tuple(
            StaticPlan(node.text('name'), node.number('layers', low=0), node.number('score'), each)
            for node, each in zip(plans, layer_tokens)
        ),
        budgets=budgets,
        curves={name: _at_budgets(by_layers, name, len(budgets)) for name in ORACLE_CURVES if by_layers.has(name)},
        shares=shares,
        named=by_layers.numbers('named'),
        match=match,
        gap=by_layers.number('gap', low=0),
        lengths_of=document.text('lengths_of'),
        allocations=tuple(_allocation(node, len(plans)) for node in document.items('lengths', at_least=1)),
        by_tokens=_token_oracle(tokens) if tokens else None,
    )


def _at_budgets(node: Document, name: str, count: int) -> tuple[float | None, ...]:
    items = node.items(name)
    if len(items) != count:
        raise node.at(name).error(f'has {len(items)} values: expected {count}, one for each budget')
    return tuple(None if each.value is None else each.number() for each in items)


def _allocation(node: Document, plans: int) -> Allocation:
    counts = tuple(tuple(each.integer(low=0) for each in row.items()) for row in node.items('counts', at_least=1))
    if any(len(row) != plans for row in counts):
        raise node.at('counts').error(f'has rows that are not of {plans} numbers, one for each plan')
    statistic, p_value = node.optional_number('statistic', low=0), node.optional_number('p_value', 0, 1)
    return Allocation(node.number('budget', low=0), counts, statistic, node.integer('degrees', low=0), p_value)


def _token_oracle(node: Document) -> TokenOracle:
    budgets = node.numbers('budgets', low=0)
    for name in ('stair', 'hull'):
        if len(node.numbers(name)) != len(budgets):
            raise node.at(name).error(f'has {len(node.items(name))} values: expected {len(budgets)}, one for each budget')
    return TokenOracle(
        budgets,
        node.numbers('stair'),
        node.numbers('hull'),
        _at_budgets(node, 'mixing', len(budgets)),
        node.number('gap', low=0),
        node.number('match', low=0),
        tuple((each.number('budget'), each.number('score'), each.number('bound')) for each in node.items('settled')),
    )


def _similarity(document: Document, path: pathlib.Path) -> Similarity:
    layers, runs = document.integer('layers', low=1), []
    for method in document.items('methods', at_least=1):
        for point in method.items('points', at_least=1):
            by_layer = tuple(_interval(each) for each in point.items('by_layer'))
            if len(by_layer) != layers:
                raise point.at('by_layer').error(f'has {len(by_layer)} values: expected {layers}, one for each layer')
            final, intermediate = (_interval(point.at(part)) for part in ('final', 'intermediate'))
            cost = point.integer('cost', 1, layers)
            runs.append(ReducedRun(method.text('method'), cost, final, intermediate, by_layer))
    texts = document.integer('texts', low=1)
    return Similarity(path, document.text('label'), layers, texts, document.text('prompt'), tuple(runs))


def _interval(node: Document) -> Interval:
    return Interval(node.number('mean', -1 - 1e-6, 1 + 1e-6), node.optional_number('margin', low=0))


def _examples(document: Document, path: pathlib.Path) -> Examples:
    num_layers = document.integer('num_layers', low=1)
    return Examples(
        path,
        num_layers,
        tuple(
            Example(
                input=node.text('input'),
                reference=node.optional_text('reference'),
                full=_output(node.at('full'), FULL_MODEL, num_layers),
                early=tuple(_output(each, each.text('label'), num_layers) for each in node.items('early')),
            )
            for node in document.items('examples', at_least=1)
        ),
        document.optional_text('data'),
    )


def _training(path: pathlib.Path, relative: pathlib.Path) -> Training | None:
    """What metrics.jsonl says; None where nothing was logged yet. A last line without an end is one that is being written.

    Raises ValueError naming file and line for any other that is no JSON object with a step.
    """
    losses, evaluations, batches, evaluated = [], [], [], []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b'\n'):
            break
        try:
            document = Document(path, json.loads(line), f'line {number}')
        except ValueError as error:
            raise ValueError(f'{path}: not valid JSON at line {number}: {error}') from None
        step = document.integer('step', low=1)
        if document.has('loss'):
            losses.append((step, document.number('loss')))
            batches.append((step, document))
        elif document.has('eval') and document.at('eval').has('loss'):
            evaluations.append((step, document.at('eval').number('loss')))
            evaluated.append((step, document.at('eval')))
    if not losses:
        return None
    of_policy = all(document.has(name) for _, document in batches for name in ('full_loss', 'cost', 'multiplier'))
    policy = _policy_training(batches, evaluated) if of_policy else None
    return Training(relative, tuple(losses), tuple(evaluations), policy)


def _policy_training(batches: list[tuple[int, Document]], evaluated: list[tuple[int, Document]]) -> PolicyTraining:
    def series(records: list[tuple[int, Document]], names: tuple[str, ...]) -> dict[str, Series]:
        logged = {name: [(step, each.number(name)) for step, each in records if each.has(name)] for name in names}
        return {name: tuple(points) for name, points in logged.items() if points}

    def lists(name: str) -> list[tuple[int, tuple[float, ...]]]:
        return [(step, each.numbers(name, 0, 1 + 1e-6)) for step, each in evaluated if each.has(name) and each.items(name)]

    runs: dict[int, dict[str, tuple[float, ...]]] = {}
    for name, kind in POLICY_RUNS.items():
        for step, shares in lists(name):
            runs.setdefault(step, {})[kind] = shares
    return PolicyTraining(
        series(batches, POLICY_NUMBERS), series(evaluated, POLICY_NUMBERS), tuple(runs.items()), tuple(lists('token_choices'))
    )


def _output(node: Document, label: str, num_layers: int) -> Output:
    pieces = tuple(piece.text() for piece in node.items('pieces'))
    exit_layers = tuple(layer.integer(low=1, high=num_layers) for layer in node.items('exit_layers'))
    if len(exit_layers) != len(pieces):
        raise node.at('exit_layers').error(f'has {len(exit_layers)} values: expected {len(pieces)}, one for each piece')
    confidence = None
    if node.has('confidence'):
        confidence = tuple(None if value.value is None else value.number() for value in node.items('confidence'))
        if len(confidence) != len(pieces):
            raise node.at('confidence').error(f'has {len(confidence)} values: expected {len(pieces)}, one for each piece')
    return Output(label, pieces, exit_layers, confidence)


def _objective(document: Document) -> str | None:
    named = document.has('objective') and document.text('objective')
    return document.choice('objective', OBJECTIVES) if named else None
