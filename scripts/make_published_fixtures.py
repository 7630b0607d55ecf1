"""Makes tests/published/reference.npz: what the reference implementation computes with tiny checkpoints of published forms.

    python scripts/make_published_fixtures.py

Needs torch and transformers; the test that reads the file needs neither. For each checkpoint of `tests/published/facts.py` it
holds `NAME/logits` float32 [2, T, V], computed in float64, and `NAME/ids`: the ids that end a sequence as generation counts
them, after the id that starts one (−1 where there is none). Of rotations that depend on how long a text is when a token is read
there is besides `NAME/said` float32 [2, T]: log-probabilities of the targets where they follow the prompts one at a time.
"""

import copy
import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tests.published import build, facts  # noqa: E402

OUTPUT = pathlib.Path(__file__).parents[1] / 'tests' / 'published' / 'reference.npz'


def main():
    arrays = {}
    for each in facts.ALL:
        with tempfile.TemporaryDirectory() as folder:
            directory = pathlib.Path(folder) / 'model'
            build.build(each, directory)
            arrays |= {f'{build.slug(each)}/{name}': array for name, array in reference(directory).items()}
    np.savez_compressed(OUTPUT, **arrays)
    print(f'{OUTPUT}: {len(facts.ALL)} checkpoints, {OUTPUT.stat().st_size / 1e3:.0f} kB')


@torch.no_grad()
def reference(directory):
    """Logits and ids of one checkpoint."""
    alone = json.loads((directory / 'config.json').read_text()).get('is_encoder_decoder') is None
    auto = AutoModelForCausalLM if alone else AutoModelForSeq2SeqLM
    loaded: Any = auto.from_pretrained(directory, dtype=torch.float64, output_loading_info=True)
    model, info = loaded
    # What the reference makes where files leave it out: zeros, and Pegasus's sinusoids.
    absent = {name for name in info['missing_keys'] if name != 'final_logits_bias' and 'embed_positions' not in name}
    assert not absent and not info['mismatched_keys'], (directory, info)
    source, mask, target = (torch.as_tensor(array) for array in build.inputs(alone))
    settings = {'input_ids': source.long(), 'attention_mask': mask.long(), 'use_cache': False}
    model.eval()
    if alone:  # Each prompt by itself: scaling that grows with the longest of a batch would be all rows'.
        logits = torch.zeros(*source.shape, model.config.vocab_size, dtype=torch.float64)
        for row, there in enumerate(mask):
            logits[row, there] = model(input_ids=source[row, there][None].long(), use_cache=False).logits[0]
    else:
        logits = model(**settings, decoder_input_ids=target.long()).logits
    generation = model.generation_config
    start = generation.bos_token_id if alone else generation.decoder_start_token_id
    ends = generation.eos_token_id
    ids = [-1 if start is None else start, *(ends if isinstance(ends, list) else [ends])]
    arrays = {'logits': logits.float().numpy(), 'ids': np.array(ids, np.int32)}
    if alone and model.config.to_dict().get('rope_parameters', {}).get('rope_type') == 'dynamic':
        rows = [said(model, row[there], tokens) for row, there, tokens in zip(source, mask, target)]
        arrays['said'] = np.stack(rows).astype(np.float32)
    return arrays


def said(model, prompt, tokens):
    """Log-probabilities [T] of tokens that follow a prompt, each read after those before it."""
    model, read, cache, scores = copy.deepcopy(model), prompt, None, []  # rotations remember the longest text
    for token in tokens:
        output = model(input_ids=read[None].long(), past_key_values=cache, use_cache=True)
        scores.append(torch.log_softmax(output.logits[0, -1], dim=-1)[token].item())
        read, cache = token[None], output.past_key_values
    return np.array(scores)


if __name__ == '__main__':
    main()
