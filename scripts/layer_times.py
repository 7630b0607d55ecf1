"""How long a prompt controller takes beside the full model and beside a plan for all, for `scripts/layer_study.py`."""

import dataclasses
import datetime
import sys

import calm_jax as calm
from calm_jax.data.jsonl import Template
from calm_jax.decoding.codec import from_json
from calm_jax.depth.plans import Uniform
from calm_jax.machine import processor
from calm_jax.speed import sample, time_decodings

BATCH_SIZES = (1, 32)
TIMED, ROUNDS = 16, 3  # texts, two batches at least; rounds


def times(model, level, share, study, records):
    """{batch size: seconds of each row, all interleaved}. share: of the layers that the plan for all runs."""
    loaded, template = calm.load(model), Template(study.source)
    limits = dict(zip(study.decode[::2], study.decode[1::2]))
    limits = calm.Limits(int(limits['--max_source_length']), int(limits['--max_new_tokens']))
    whole = loaded.resolve(calm.Decoding(limits=limits))
    chosen = from_json({'plan': {'class': 'prompt_controller', 'level': level}}, heads=loaded.heads).plan
    rows = {'full': whole, 'prompt': dataclasses.replace(whole, plan=chosen)}
    rows['uniform'] = dataclasses.replace(whole, plan=Uniform(share))
    texts, taken = [template(records[i], records.where(i)) for i in range(len(records))], {}
    for size in BATCH_SIZES:
        timed = time_decodings(loaded, [*rows.values()], sample(texts, max(TIMED, 2 * size)), size, ROUNDS)
        seconds = {name: timed.seconds[:, place].tolist() for place, name in enumerate(rows)}
        taken[str(size)] = {'seconds': seconds, 'tokens': dict(zip(rows, timed.tokens.tolist()))}
        print(f'[{datetime.datetime.now():%H:%M:%S}] timed at batch {size}', flush=True)
    made = {'machine': processor(), 'date': str(datetime.date.today()), 'command': sys.argv}
    return {**made, 'level': level, 'share': share, 'batches': taken}
