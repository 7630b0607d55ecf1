"""One engine in a process of its own that decodes real texts with a trained model: what `texts.py` asks of it.

    {"do": "load", "checkpoint": …, "texts": […], "threads": …, "directory": …}   versions, device, dtype
    {"do": "prepare", "case": {…}}     seconds of a first pass, which compiles
    {"do": "measure", "case": {…}}     seconds of one pass over all texts, and the tokens of each

Every engine decodes greedily, each text until it ends by itself or has `new_tokens`; tokens include the end. This package is
timed from texts to texts, the others from ids to ids: those that this package made of the texts.
"""

import dataclasses
import json
import time
from pathlib import Path

import engines


class CalmJax:
    """This package as its users run it: `Model.stream` at full depth, in flight. drafts: with an exit that is verified."""

    def load(self, request):
        import jax

        import calm_jax
        from calm_jax.checkpoints import huggingface, native
        from calm_jax.decoding.codec import from_json

        self.model, self.texts = calm_jax.load(request['checkpoint']), request['texts']
        self.decoding = self.model.decoding.full()
        limits, config = self.decoding.limits, self.model.config
        described = {'versions': {'jax': jax.__version__}, 'dtype': config.dtype}
        described['device'] = f'{jax.default_backend()} ({jax.devices()[0].device_kind})'
        if request['drafts']:
            exit = from_json({'exit': request['exit']}, heads=self.model.heads).exit
            self.decoding = dataclasses.replace(self.decoding, exit=exit)
            return described
        checkpoint = native.load(request['checkpoint'])
        huggingface.write(request['directory'], checkpoint)
        end = [] if config.decoder_only else [config.eos_id]
        room = limits.max_source_length - len(end)
        sources = {
            'sources': [self.model.encode(text)[:room] + end for text in self.texts],
            'source_length': limits.max_source_length,
            'new_tokens': int(limits.max_new_tokens),
            'eos_id': config.eos_id,
            'pad_id': max(config.pad_id, 0),
            'vocab_size': config.vocab_size,
            'decoder_only': config.decoder_only,
        }
        Path(request['directory'], SOURCES).write_text(json.dumps(sources))
        return described

    def prepare(self, case):
        return {'first_seconds': self.measure(case)['seconds']}

    def measure(self, case):
        start = time.perf_counter()
        outputs = list(self.model.stream(self.texts, self.decoding, batch_size=case['batch_size']))
        seconds = time.perf_counter() - start
        return {'seconds': seconds, 'tokens': [each.tokens for each in sorted(outputs, key=lambda each: each.text_index)]}


SOURCES = 'benchmark_sources.json'  # beside the exported model


def sources(request):
    """What the texts are as ids, and how they end."""
    return json.loads(Path(request['directory'], SOURCES).read_text())


class Transformers:
    """Hugging Face transformers: texts sorted by length, in batches. compiled: with a static cache, its steps compiled by
    torch, sources padded to few widths, as every shape compiles anew. drafts: of the first layers (`assistant_early_exit`)."""

    def load(self, request):
        self.read = sources(request)
        self.engine = engines.Transformers()
        architecture = 'AutoModelForCausalLM' if self.read['decoder_only'] else 'AutoModelForSeq2SeqLM'
        answer = self.engine.load({**request, 'architecture': architecture})
        self.engine.model.generation_config.eos_token_id = self.read['eos_id']
        self.engine.model.generation_config.pad_token_id = self.read['pad_id']
        self.drafts = {'assistant_early_exit': request['early_exit']} if request['drafts'] else {}
        return answer

    def prepare(self, case):
        seconds = self.measure(case)['seconds']
        self.engine.check_compiled()
        return {'first_seconds': seconds}

    def measure(self, case):
        order = sorted(range(len(self.read['sources'])), key=lambda index: len(self.read['sources'][index]))
        tokens = [[]] * len(order)
        start = time.perf_counter()
        for first in range(0, len(order), case['batch_size']):
            rows = order[first : first + case['batch_size']]
            for index, row in zip(rows, self._decode([self.read['sources'][index] for index in rows])):
                tokens[index] = row
        return {'seconds': time.perf_counter() - start, 'tokens': tokens}

    def _decode(self, batch):
        width = max(map(len, batch))
        if self.engine.cache:
            width = -(-width // 16) * 16
        alone, missing = self.read['decoder_only'], [width - len(row) for row in batch]
        ids = [self._padded(row, [self.read['pad_id']] * more, alone) for row, more in zip(batch, missing)]
        mask = [self._padded([1] * len(row), [0] * more, alone) for row, more in zip(batch, missing)]
        torch, model = self.engine.torch, self.engine.model
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=self.engine.device),
                attention_mask=torch.tensor(mask, device=self.engine.device),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=self.read['new_tokens'],
                **self.engine.cache,
                **self.drafts,
            )
        return [ended(row, self.read['eos_id']) for row in output[:, width if alone else 1 :].tolist()]

    @staticmethod
    def _padded(row, padding, front):
        return padding + row if front else row + padding


def ended(row, eos_id):
    """The tokens up to the first end, which is one of them."""
    return row[: row.index(eos_id) + 1] if eos_id in row else row


class CTranslate2:
    """CTranslate2 on all texts at once: it sorts them by length itself, and drops rows that have ended. side_by_side: batches
    that are decoded at a time, each by its share of the threads."""

    def load(self, request):
        self.read = sources(request)
        self.engine = engines.CTranslate2()
        return self.engine.load({**request, **{name: self.read[name] for name in ('vocab_size', 'decoder_only', 'eos_id')}})

    def prepare(self, case):
        return {'first_seconds': self.measure(case)['seconds']}

    def measure(self, case):
        tokens = [[engines.piece(i) for i in row] for row in self.read['sources']]
        options = {'beam_size': 1, 'max_batch_size': case['batch_size'], 'return_end_token': True}
        options['max_length' if self.engine.alone else 'max_decoding_length'] = self.read['new_tokens']
        start = time.perf_counter()
        if self.engine.alone:
            results = self.engine.engine.generate_batch(tokens, sampling_topk=1, include_prompt_in_result=False, **options)
            rows = [result.sequences[0] for result in results]
        else:
            rows = [result.hypotheses[0] for result in self.engine.engine.translate_batch(tokens, **options)]
        seconds = time.perf_counter() - start
        return {'seconds': seconds, 'tokens': [[int(token[1:-1]) for token in row] for row in rows]}


ENGINES = {'calm_jax': CalmJax, 'transformers': Transformers, 'ctranslate2': CTranslate2}

if __name__ == '__main__':
    engines.main(ENGINES)
