"""Look inside a model.

    calm analyze sensitivity --checkpoint DIR --data in.jsonl --source_field en --metric rougeL --output sensitivity.json
    calm analyze ranks --checkpoint DIR --data in.jsonl --source_field en --label fine-tuned --output ranks.json
    calm analyze confidence --checkpoint DIR --data in.jsonl --source_field en --measure softmax_gap --output confidence.json
    calm analyze oracle --predictions full=full.jsonl --predictions half=half.jsonl --references in.jsonl \
        --reference_field fr --output oracle.json
    calm analyze similarity --checkpoint DIR --data in.jsonl --source_field en --costs 2,4,6 --output similarity.json

sensitivity: what one wrong token costs the rest of the sequence, by where it stands: the score against the full model's
output after the last layer's 10th-ranked token (sampling) or the first layer's prediction (layer) at each position.
ranks: where each layer ranks the token that the last layer says. confidence: how sure a measure is at each layer, how often
what would be said there is the last layer's token, in how many pairs of a right and a wrong token it is surer of the right one,
and how often pruning or a contrast changes what is said; of a measure that looks at a part of the vocabulary, how it ranks
tokens beside the same over all ids. Files of several models, told apart by --label, are drawn side by side.
oracle: what a choice of plan by text could come to, from the outputs of several plans (calm analyze oracle --help).
similarity: how near runs with fewer layers stay to the full model, by what they leave out (an early exit, layers evenly
spaced, drawn, or named) and by how many layers they run: the cosine of the final state, and of every layer's, on the full
model's own tokens.
"""

import dataclasses
from functools import partial

from calm_jax.analysis import depths
from calm_jax.analysis.confidences import layer_confidences
from calm_jax.analysis.sensitivity import sensitivity
from calm_jax.analysis.similarity import METHODS, Method, similarity
from calm_jax.commands import decode_flags, oracle
from calm_jax.commands.flag_types import numbers, positive
from calm_jax.commands.provenance import provenance
from calm_jax.compilation import use_compilation_cache
from calm_jax.data import jsonl
from calm_jax.data.sources import SOURCE_FIELD, data_of, open_records
from calm_jax.decoding.choice import Greedy
from calm_jax.decoding.codec import describe, to_json
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.depth.confidence import StaticDepth, VocabularyMeasure
from calm_jax.depth.contrast import Contrast
from calm_jax.depth.exits import Exit
from calm_jax.depth.plans import FixedLayers
from calm_jax.depth.vocabulary import Whole
from calm_jax.files import write_json
from calm_jax.metrics import quality
from calm_jax.model import load
from calm_jax.nearest import did_you_mean
from calm_jax.outputs import check_file
from calm_jax.progress import progress
from calm_jax.tasks import check_says_tokens


def add_arguments(parser):
    analyses = parser.add_subparsers(dest='analysis', required=True, metavar='ANALYSIS')
    one = analyses.add_parser('sensitivity', help='what one wrong token costs, by its position')
    two = analyses.add_parser('ranks', help='where each layer ranks the final token')
    three = analyses.add_parser('confidence', help='confidence against accuracy, layer by layer')
    four = analyses.add_parser('similarity', help="how near runs with fewer layers stay to the full model's states")
    oracle.add_arguments(analyses.add_parser('oracle', help='what a choice of plan by text could come to'))
    for each in (one, two, three, four):
        _add_common(each)
    one.add_argument('--metric', default='rougeL', metavar='NAME', help='score against the full output (default rougeL)')
    one.add_argument('--positions', metavar='t,t,…', help='tokens before the wrong one (default: 8, evenly spaced)')
    four.add_argument(
        '--method',
        action='append',
        metavar='NAME',
        help=f'what is left out: one of {", ".join(METHODS)}, or layers:1,5,9 for all others; repeatable (default: '
        f'{", ".join(METHODS)}); random always runs the first layer, random_all draws it too',
    )
    four.add_argument('--costs', metavar='C,C,…', help="how many of the decoder's layers run (default: 1, 2, … all)")
    four.add_argument(
        '--plan_prompt',
        choices=('full', 'plan'),
        default='full',
        help="how a decoder-only model's prompt is read: in full (default), or with fewer layers too",
    )
    four.add_argument('--seed', type=int, metavar='N', help='of layers that are drawn (default 0)')
    for each in (two, three, four):
        each.add_argument('--label', metavar='NAME', help='of the model in figures (default: the checkpoint as given)')
    for each in (one, two, four):
        each.add_argument('--max_new_tokens', type=positive, metavar='T', help="default: the checkpoint's, else 128")
        each.add_argument('--max_source_length', type=positive, metavar='S', help='default: as above, else 512')
    decode_flags.add_decoding(three, threshold=False)


def _add_common(parser):
    decode_flags.add_model(parser)
    parser.add_argument('--data', required=True, metavar='FILE', help='inputs: JSONL, plain, .gz or .xz, or seqio:TASK:SPLIT')
    parser.add_argument(
        '--source_field', default=SOURCE_FIELD, metavar='FIELD', help='input: a field or template (default source)'
    )
    parser.add_argument(
        '--chat',
        action='store_true',
        help="each text is what a user says, put to the model as the checkpoint's chat template has it",
    )
    parser.add_argument('--examples', type=positive, default=100, metavar='N', help='inputs used (default 100)')
    parser.add_argument('--output', required=True, metavar='FILE', help='JSON to write, which `calm report` draws')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')


def run(args):
    if args.analysis == 'oracle':  # asks no model
        return oracle.run(args)
    check_file(args.output, args.overwrite, [args.data])
    use_compilation_cache()
    if args.analysis == 'sensitivity':
        quality.metric(args.metric)  # a name that is none is said before the model is read
    records, template = open_records(args.data), jsonl.Template(args.source_field, args.chat)
    texts = [template(records[i], records.where(i)) for i in range(min(args.examples, len(records)))]
    model = load(args.checkpoint, args.dtype).at(args.date)
    check_says_tokens(model.task, args.checkpoint)
    if args.chat and model.tokenizer.chat is None:
        raise ValueError(f'--chat: {args.checkpoint} has no chat template; pass the text that its prompts have')
    decode_flags.check_date(args, model, texts)
    model = model.dated(texts)
    decoding = _decoding(args, model)
    options = {'batch_size': args.batch_size, 'progress': partial(progress, quiet=args.quiet)}
    analyses = {'sensitivity': _sensitivity, 'ranks': _ranks, 'confidence': _confidence, 'similarity': _similarity}
    found, lines = analyses[args.analysis](args, decoding, model, texts, options)
    write_json(
        args.output,
        {
            **found,
            'provenance': provenance(
                f'analyze {args.analysis}',
                args,
                seed=int(decoding.seed),
                settings=to_json(decoding),
                fingerprints=model.fingerprints,
                data=data_of(records, args.source_field, texts, model.date),
            ),
        },
        make_folders=True,
    )
    if not args.quiet:
        print('\n'.join(lines))


def _decoding(args, model):
    """How the texts are decoded: of flags, where the analysis has them; else as the checkpoint says."""
    if args.analysis == 'confidence':
        return decode_flags.decoding_of(args, model)
    limits = Limits(args.max_source_length, args.max_new_tokens)
    decoding = model.resolve(dataclasses.replace(model.decoding.full(), limits=limits))
    if args.analysis == 'similarity':
        return dataclasses.replace(decoding, choice=Greedy(), seed=args.seed or 0)
    # A search has no token after the wrong one that is its own.
    return dataclasses.replace(decoding, choice=Greedy()) if args.analysis == 'sensitivity' else decoding


def _sensitivity(args, decoding, model, texts, options):
    """What sensitivity.json holds, and what is printed of it."""
    positions = _positions(args.positions, decoding.limits.max_new_tokens)
    found = sensitivity(model, texts, quality.metric(args.metric), positions, decoding, **options)
    columns = zip(*(found[key] for key in ('positions', 'sampling', 'layer', 'examples')))
    return {**found, 'metric': args.metric}, [
        f'token {position}: {args.metric} {sampling:.3f} after the 10th-ranked token, {layer:.3f} after the first '
        f"layer's ({count} outputs)"
        for position, sampling, layer, count in columns
    ]


def _ranks(args, decoding, model, texts, options):
    """What ranks.json holds, and what is printed of it."""
    # A measure that looks at nothing: the head is applied once a layer.
    found = depths.ranks(layer_confidences(model, texts, StaticDepth(), decoding, **options))
    lines = [
        f'layer {layer + 1}: the final token is first for {first:.1%} of {found["tokens"]} tokens, of rank {middle:g} in '
        f'the median, {late:g} at 95%'
        for layer, (first, (_, _, middle, _, late)) in enumerate(zip(found['first'], found['quantiles']))
    ]
    return {'analysis': 'ranks', 'label': args.label or args.checkpoint, 'vocabulary': model.config.vocab_size, **found}, lines


def _confidence(args, decoding, model, texts, options):
    """What confidence.json holds, and what is printed of it."""
    if decoding.exit is None:
        raise ValueError('--measure is missing: whose confidence is to be looked at')
    measure, rule = decoding.exit.measure, decoding.exit
    options = {**options, 'min_exit_layer': rule.min_exit_layer, 'adapters': rule.adapters}
    seen = layer_confidences(model, texts, measure, decoding, **options)
    found = depths.confidence(seen)
    if isinstance(measure, Contrast):
        by_scores = dataclasses.replace(measure, emits='auto_contrastive')
        found['unlike_scores'] = depths.unlike_scores(seen, layer_confidences(model, texts, by_scores, decoding, **options))
    if isinstance(measure, VocabularyMeasure) and not isinstance(measure.vocabulary, Whole):
        whole = dataclasses.replace(measure, vocabulary=Whole())
        found.update(depths.against_whole(seen, layer_confidences(model, texts, whole, decoding, **options)))
    lines = [
        f"layer {layer + 1}: confidence {sure:.3f}, accuracy {right:.3f}, {unlike:.2%} of tokens unlike the whole head's"
        f'{_ranking(found, layer)}'
        for layer, (sure, right, unlike) in enumerate(zip(found['confidence'], found['accuracy'], found['unlike_head']))
    ]
    words = describe(to_json(Decoding(exit=Exit(measure))))
    return {'analysis': 'confidence', 'label': args.label or args.checkpoint, 'measure': words, **found}, lines


def _ranking(found, layer):
    """', right above wrong in 0.93 of pairs (0.94 over all ids, rank correlation 0.98)', as far as there is such."""
    names = {
        'auc': ', right above wrong in {} of pairs',
        'auc_whole': '{} over all ids',
        'rank_correlation': 'rank correlation {}',
    }
    values = {name: found[name][layer] for name in names if name in found and found[name][layer] is not None}
    words = {name: names[name].format(f'{value:.3f}') for name, value in values.items()}
    beside = ', '.join(word for name, word in words.items() if name != 'auc')
    return words.get('auc', '') + (f' ({beside})' if beside else '')


def _similarity(args, decoding, model, texts, options):
    """What similarity.json holds, and what is printed of it."""
    methods = _methods(args, model.config.sizes)
    if args.plan_prompt == 'plan' and not model.config.decoder_only:
        raise ValueError('--plan_prompt plan changes nothing: the model reads its source with an encoder, which runs in full')
    result = similarity(model, texts, methods, decoding, prompt_in_full=args.plan_prompt == 'full', **options)
    points = [(each['method'], point) for each in result['methods'] for point in each['points']]
    lines = [
        f'{cost} of {result["layers"]} layers: {words} '
        + ', '.join(f'{name} {_within(point[of])}' for name, point in points if point['cost'] == cost)
        for cost in sorted({point['cost'] for _, point in points})
        for of, words in (('final', 'cosine of the final state'), ('intermediate', 'mean over the layers before it'))
    ]
    return {
        'analysis': 'similarity',
        'label': args.label or args.checkpoint,
        'prompt': 'all layers' if args.plan_prompt == 'full' or not model.config.decoder_only else 'within the plan',
        **result,
    }, lines


def _within(value):
    """'0.93 ± 0.01'."""
    return f'{value["mean"]:.3f}' + ('' if value['margin'] is None else f' ± {value["margin"]:.3f}')


def _methods(args, sizes):
    """What is compared with the full model. Raises ValueError for what is no method or cost, and what would change nothing."""
    names = args.method or [*METHODS]
    costs = [*range(1, sizes.layers + 1)] if args.costs is None else sorted({*numbers(args.costs, '--costs', int)})
    for cost in costs:
        if not 1 <= cost <= sizes.layers:
            raise ValueError(f'--costs: {cost} is outside 1…{sizes.layers}, the layers that the decoder has')
    methods = []
    for name in names:
        kind, colon, text = name.partition(':')
        if name in [method.name for method in methods]:
            raise ValueError(f'--method {name} is given twice; once is enough')
        if kind == 'layers' and colon:
            maker = FixedLayers(tuple(FixedLayers.of(text, sizes)['layers']))
            methods.append(Method(name, {len(maker.layers): maker}))
        elif name in METHODS:
            methods.append(Method(name, {cost: METHODS[name](cost, sizes.layers) for cost in costs}))
        else:
            listed = ', '.join([*METHODS, 'layers:1,5,9'])
            raise ValueError(f'unknown --method {name!r}; expected one of {listed}{did_you_mean(name, METHODS)}')
    if args.costs is not None and not {*names} & {*METHODS}:
        raise ValueError('--costs changes nothing: every --method names its layers')
    if args.seed is not None and not {*names} & {'random', 'random_all'}:
        raise ValueError('--seed changes nothing without --method random or random_all')
    return methods


def _positions(text, length):
    if text is None:
        return sorted({round(step * (length - 1) / 7) for step in range(8)})
    positions = numbers(text, '--positions', int)
    for position in positions:
        if not 0 <= position < length:
            raise ValueError(f'--positions: {position} is outside 0…{length - 1}')
    return positions
