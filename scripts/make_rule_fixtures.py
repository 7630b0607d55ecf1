"""Makes tests/fixtures/rules: what the reference implementation says under its generation settings, and the scores that its
processors make of random ones.

    python scripts/make_rule_fixtures.py [--output tests/fixtures/rules]

Needs torch and transformers, and the models of scripts/make_parity_fixtures.py; the tests that read the fixtures need neither
library.

<model>.json     {name: {settings, tokens, sure}}: of a model in tests/fixtures/parity, under settings as generation_config.json
                 has them, NEW_TOKENS or fewer tokens of each of its first ROWS sources alone, and how many of them no rounding
                 can turn: those before the first whose score is within 1e-3 of the next. Settings are made of what the model
                 says without any, so that each changes something. In float64.
scores.json      {name: {settings, scores}}: logits [B, V], a history [B, H] of generated ids after a start token and a source
                 [B, S] beside them
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig
from transformers.generation import logits_process as processors

MODELS = ('gated_gelu', 'bart', 'gpt2', 'opt', 'llama_1')
SEARCHED = ('bart', 'llama_1')
ROOT = pathlib.Path(__file__).parents[1] / 'tests' / 'fixtures'
NEW_TOKENS, ROWS = 14, 2
NEVER = -float('inf')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', default=ROOT / 'rules', type=pathlib.Path)
    parser.add_argument('--only', choices=[*MODELS, 'scores'], action='append', help='repeatable (default all)')
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in [name for name in MODELS if name in (args.only or MODELS)]:
        write(args.output / f'{name}.json', said(ROOT / 'parity' / name, name in SEARCHED))
    if 'scores' in (args.only or ['scores']):
        write(args.output / 'scores.json', scored())


def write(path, cases):
    path.write_text('{\n' + ',\n'.join(f' {json.dumps(name)}: {json.dumps(case)}' for name, case in cases.items()) + '\n}\n')


@torch.no_grad()
def said(directory, searched):
    encodes = 'decoder_start_token_id' in json.loads((directory / 'generation_config.json').read_text())
    architecture = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    model = architecture.from_pretrained(directory, dtype=torch.float64).eval()
    reference = np.load(directory / 'reference.npz')
    sources = [row[mask] for row, mask in zip(reference['source'][:ROWS], reference['mask'])]
    free = [generated(model, source, {})[0] for source in sources]
    cases = {}
    for name, settings in settings_of(free, sources, model.config.eos_token_id, encodes).items():
        rows = [generated(model, source, settings) for source in sources]
        if all(row == plain for (row, _), plain in zip(rows, free)):
            print(f'{directory.name}: left out {name}, which changes nothing')
            continue
        cases[name] = {'settings': settings, 'tokens': [row for row, _ in rows], 'sure': [sure for _, sure in rows]}
    if searched:
        settings = {**cases['all']['settings'], 'num_beams': 3, 'renormalize_logits': True, 'early_stopping': True}
        settings.pop('max_length', None)
        cases['searched'] = {'settings': settings, 'tokens': [generated(model, source, settings)[0] for source in sources]}
        for seed in range(3):
            # Where slightly other weights find the same, no comparison of scores was a near tie.
            other = architecture.from_pretrained(directory, dtype=torch.float64).eval()
            generator = torch.Generator().manual_seed(seed)
            for parameter in other.parameters():
                parameter.mul_(1 + 1e-5 * torch.randn(parameter.shape, generator=generator))
            assert [generated(other, source, settings)[0] for source in sources] == cases['searched']['tokens']
    return cases


def settings_of(free, sources, eos, encodes):
    """{name: settings}, of what is said without any."""
    eos = eos[0] if isinstance(eos, list) else eos
    one, two = free
    before = 1 if encodes else max(map(len, sources))
    ends = {'sequence_bias': [[[eos], 60.0]]}
    cases = {
        'repetition_penalty': {'repetition_penalty': 1.7},
        'encoder_repetition_penalty': {'encoder_repetition_penalty': 2.0},
        'no_repeat_ngram_size': {'no_repeat_ngram_size': 1},
        'encoder_no_repeat_ngram_size': {'encoder_no_repeat_ngram_size': 1},
        'suppress_tokens': {'suppress_tokens': [one[1], two[2], 10_000]},
        'begin_suppress_tokens': {'begin_suppress_tokens': [one[0], two[0]]},
        'bad_words_ids': {'bad_words_ids': [[one[1]], [*two[:3]], [one[3], one[4]], [eos]]},
        'sequence_bias': {'sequence_bias': [[[one[0], one[1]], -30.0], [[two[2]], -30.0], [[one[5]], 2.0]]},
        'exponential_decay_length_penalty': {'exponential_decay_length_penalty': [3, 1.9]},
        'min_length': {**ends, 'min_length': before + 4},
        'min_new_tokens': {**ends, 'min_new_tokens': 6},
        'max_length': {'max_length': before + 5},
        'forced_eos_token_id': {'forced_eos_token_id': one[2]},
        'remove_invalid_values': {'remove_invalid_values': True, 'suppress_tokens': [one[0]]},
        'all': {
            'repetition_penalty': 1.2,
            'encoder_repetition_penalty': 1.1,
            'no_repeat_ngram_size': 3,
            'encoder_no_repeat_ngram_size': 2,
            'suppress_tokens': [two[1]],
            'begin_suppress_tokens': [one[0]],
            'bad_words_ids': [[one[1], one[2]], [two[0]]],
            'sequence_bias': [[[one[3]], 1.5], [[one[1]], -2.0]],
            'exponential_decay_length_penalty': [4, 1.3],
            'min_new_tokens': 5,
            'forced_eos_token_id': eos,
            'remove_invalid_values': True,
        },
    }
    if encodes:
        cases['forced_bos_token_id'] = {'forced_bos_token_id': one[3]}
        cases['all']['forced_bos_token_id'] = two[3]
    return cases


def generated(model, source, settings):
    """(tokens with the end, how many of them are sure)."""
    start = model.generation_config.decoder_start_token_id
    eos = model.config.eos_token_id
    limit = {} if 'max_length' in settings else {'max_new_tokens': NEW_TOKENS}
    fields = {'do_sample': False, 'eos_token_id': eos, 'pad_token_id': 0, 'decoder_start_token_id': start}
    model.generation_config = GenerationConfig(**fields)
    searches = settings.get('num_beams', 1) > 1
    output = model.generate(
        input_ids=torch.as_tensor(source, dtype=torch.long)[None],
        attention_mask=torch.ones(1, len(source), dtype=torch.long),
        generation_config=GenerationConfig(**fields, **limit, **settings, output_scores=True, return_dict_in_generate=True),
    )
    tokens = output.sequences[0, 1 if start is not None else len(source) :].tolist()
    if searches:
        ends = [place for place, token in enumerate(tokens) if token == eos]
        return tokens[: ends[0] + 1 if ends else None], None
    top = torch.cat(output.scores).topk(2).values
    close = (top[:, 0] - top[:, 1] < 1e-3).nonzero()[:, 0].tolist()
    return tokens, close[0] if close else len(tokens)


def scored():
    """Scores that processors make, each alone and samplers one after the other."""
    rng = np.random.default_rng(0)
    logits = torch.as_tensor(3 * rng.standard_normal((4, 24)), dtype=torch.float32)
    history = torch.as_tensor(rng.integers(2, 24, (4, 7)))
    history[:, 0] = 0
    history[0, 4:] = history[0, 1:4]
    source = torch.as_tensor(rng.integers(2, 24, (4, 6)))
    source[1, :3], source[2, 2:5] = history[1, 4:], history[2, 4:]
    eos = torch.tensor([1])
    made = {
        'repetition_penalty': [processors.RepetitionPenaltyLogitsProcessor(1.4)],
        'encoder_repetition_penalty': [processors.EncoderRepetitionPenaltyLogitsProcessor(1.4, source)],
        'no_repeat_ngram_size': [processors.NoRepeatNGramLogitsProcessor(2)],
        'encoder_no_repeat_ngram_size': [processors.EncoderNoRepeatNGramLogitsProcessor(3, source)],
        'bad_words_ids': [processors.NoBadWordsLogitsProcessor([[3], history[0, -2:].tolist() + [4], [1]], eos)],
        'sequence_bias': [
            processors.SequenceBiasLogitsProcessor([[[3], 1.5], [history[1, -1:].tolist() + [4], -2.5], [[4], 0.5]])
        ],
        'exponential_decay_length_penalty': [processors.ExponentialDecayLengthPenalty((2, 1.5), eos, 1)],
        'temperature': [processors.TemperatureLogitsWarper(0.7)],
        'top_h': [processors.TopHLogitsWarper(0.4)],
        'top_k': [processors.TopKLogitsWarper(5)],
        'top_p': [processors.TopPLogitsWarper(0.8)],
        'min_p': [processors.MinPLogitsWarper(0.1)],
        'typical_p': [processors.TypicalLogitsWarper(0.6)],
        'epsilon_cutoff': [processors.EpsilonLogitsWarper(0.05)],
        'eta_cutoff': [processors.EtaLogitsWarper(0.2)],
    }
    settings = {
        'repetition_penalty': 1.4,
        'encoder_repetition_penalty': 1.4,
        'no_repeat_ngram_size': 2,
        'encoder_no_repeat_ngram_size': 3,
        'bad_words_ids': [[3], history[0, -2:].tolist() + [4], [1]],
        'sequence_bias': [[[3], 1.5], [history[1, -1:].tolist() + [4], -2.5], [[4], 0.5]],
        'exponential_decay_length_penalty': [2, 1.5],
        'temperature': 0.7,
        'top_h': 0.4,
        'top_k': 5,
        'top_p': 0.8,
        'min_p': 0.1,
        'typical_p': 0.6,
        'epsilon_cutoff': 0.05,
        'eta_cutoff': 0.2,
    }
    warpers = [
        processors.TemperatureLogitsWarper(0.8),
        processors.TopHLogitsWarper(0.95),
        processors.TopKLogitsWarper(12),
        processors.TopPLogitsWarper(0.95),
        processors.MinPLogitsWarper(0.02),
        processors.TypicalLogitsWarper(0.9),
        processors.EpsilonLogitsWarper(0.01),
        processors.EtaLogitsWarper(0.02),
    ]
    together = {
        'temperature': 0.8,
        'top_h': 0.95,
        'top_k': 12,
        'top_p': 0.95,
        'min_p': 0.02,
        'typical_p': 0.9,
        'epsilon_cutoff': 0.01,
        'eta_cutoff': 0.02,
    }
    cases = {
        name: {'settings': {name: settings[name]}, 'scores': processed(history, logits, each)} for name, each in made.items()
    }
    cases['sampled together'] = {'settings': together, 'scores': processed(history, logits, warpers)}
    return {'': {'logits': logits.tolist(), 'history': history.tolist(), 'source': source.tolist()}, **cases}


def processed(history, scores, each):
    """Scores after some processors, null for −∞."""
    for processor in each:
        scores = processor(history, scores.clone())
    return [[None if score == NEVER else score for score in row] for row in scores.tolist()]


if __name__ == '__main__':
    main()
