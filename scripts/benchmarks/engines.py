"""One engine in a process of its own: requests in on standard input, one JSON object a line, answers out alike.

`peers.py` starts a worker per engine and drives them in turn; while one waits it blocks on its pipe. Requests:

    {"do": "load", "shape": …, "seed": …, "threads": …, "directory": …}   versions, device, dtype
    {"do": "prepare", "case": {…}}                                        seconds to compile and memory, once per program
    {"do": "measure", "case": {…}}                                        seconds and tokens of one call
    {"do": "memory"}                                                      peak resident set, bytes

Every engine decodes greedily and never ends by itself. `measure` times a whole call, source tokens in and `new_tokens`
out, and the same call stopped after its first token: (whole − first) / (new_tokens − 1) is one step, alike for all.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


def sources(case, vocab_size):
    """Random source tokens int [B, S], no padding and no special ids; a function of the case alone."""
    rng = np.random.default_rng(case['seed'])
    return rng.integers(3, vocab_size, (case['batch_size'], case['source_length']))


class CalmJax:
    """This package: its own loop, at full depth and with exits scripted to happen after a given layer."""

    def load(self, request):
        import jax
        import shapes

        from calm_jax.models import transformer
        from calm_jax.models.joined import join

        shape = shapes.SHAPES[request['shape']]()
        # No end-of-sequence: every row runs to the last token asked for.
        self.config = dataclasses.replace(shape.config, eos_id=-2)
        self.params = transformer.init_params(shape.config, jax.random.key(request['seed']))
        if request['export']:
            export(request['directory'], shape.config, self.params)
        self.params = join(self.params, self.config)  # as `calm_jax.load` does
        self.programs, self.tables = {}, {}
        device = jax.devices()[0]
        return {
            'versions': {'jax': jax.__version__},
            'device': f'{jax.default_backend()} ({device.device_kind})',
            'dtype': self.config.dtype,
        }

    def prepare(self, case):
        from calm_jax.decoding import ahead

        call = self._call(case, case['new_tokens'])
        key = ahead.key(*call)
        first = key not in self.programs
        if first:
            self.programs[key] = ahead.compile_program(*call)
        trace, _ = self._generate(case, case['new_tokens'])
        if case['exit_layer'] is not None and not np.all(trace.exit_layers == case['exit_layer']):
            raise ValueError(f'{case["setting"]}: exits at {np.unique(trace.exit_layers)}, scripted for {case["exit_layer"]}')
        return {name: value for name, value in self.programs[key]._asdict().items() if name != 'call'} if first else {}

    def measure(self, case):
        _, first = self._generate(case, 1)
        trace, whole = self._generate(case, case['new_tokens'])
        return {'first': first, 'whole': whole, 'tokens': trace.tokens.tolist()}

    def _call(self, case, new_tokens):
        """(function, arguments, settings) of the decode; how many tokens it makes is no part of what is compiled."""
        from calm_jax.decoding.decoding import Decoding, Limits
        from calm_jax.decoding.generate import program

        decoding = Decoding(limits=Limits(max_new_tokens=new_tokens), exit=self._exit(case))
        settings = {'capacity': case['cache_length'], 'head_table': self._table(case)}
        return program(self.config, self.params, self._tokens(case), None, decoding, **settings)

    def _generate(self, case, new_tokens):
        import jax

        from calm_jax.decoding import ahead
        from calm_jax.decoding.generate import cut

        call = self._call(case, new_tokens)
        run = self.programs[ahead.key(*call)].call
        arguments, settings = ahead.inputs(*call[1:])
        start = time.perf_counter()
        trace = jax.device_get(run(*arguments, **settings))
        seconds = time.perf_counter() - start
        return cut(trace, new_tokens), seconds

    def _tokens(self, case):
        return np.asarray(sources(case, self.config.vocab_size), np.int32)

    def _exit(self, case):
        from calm_jax.depth.exits import MEASURES, Exit

        if case['measure'] is None:
            return None
        name, _, pruning = case['measure'].partition(', ')
        parts = {'vocabulary': self._vocabulary(pruning)} if pruning else {}
        if name == 'classifier':
            parts = {'kernel': np.full((self.config.emb_dim, 1), 0.01, np.float32), 'bias': np.zeros(1, np.float32)}
        measure = MEASURES[name](**parts)
        return Exit(scripted(type(measure))(measure, np.int32(case['exit_layer'])), 0.5)

    def _vocabulary(self, pruning):
        """Of 'frequent K', the first K; of 'fixed K' or 'decaying K', from the first layer on."""
        from calm_jax.depth.vocabulary import DecayingPruning, FixedPruning, FrequentIds

        kind, count = pruning.split()
        if kind == 'frequent':
            listed = min(int(count), self.config.vocab_size)
            return FrequentIds(np.arange(listed, dtype=np.int32), listed)
        return FixedPruning(keep=int(count)) if kind == 'fixed' else DecayingPruning(keep_least=int(count))

    def _table(self, case):
        """The head as the measure reads it beside the whole, made once, as `calm_jax.Model` does."""
        import jax

        from calm_jax.models.transformer import Transformer

        name, exit = case['measure'], self._exit(case)
        if name not in self.tables:
            apply, table = Transformer(self.config).apply, None
            if exit is not None and exit.measure.listed is not None:
                make = jax.jit(lambda params, ids: apply({'params': params}, ids, method='head_columns'))
                table = make(self.params, exit.measure.listed)
            elif exit is not None and exit.measure.prunes and not self.config.tied_head:
                table = jax.jit(lambda params: apply({'params': params}, method='head_table'))(self.params)
            self.tables[name] = table
        return self.tables[name]


@cache
def scripted(kind):
    """The measure's class, computed as ever, with the confidence moved to one side of ½: every token exits after `layers`, a
    number, or a table [n] that rows and steps go through."""
    import jax
    import jax.numpy as jnp

    from calm_jax.depth.confidence import Measure
    from calm_jax.pytrees import pytree

    @pytree
    class Scripted(Measure):
        measure: Any
        layers: Any

        remembers: ClassVar[bool] = kind.remembers
        looks_ahead: ClassVar[bool] = kind.looks_ahead

        @property
        def predicts(self):
            return self.measure.predicts

        @property
        def reads_logits(self):
            return self.measure.reads_logits

        @property
        def listed(self):
            return self.measure.listed

        @property
        def prunes(self):
            return self.measure.prunes

        def starts(self, layer):
            return self.measure.starts(layer)

        def init(self, rows, sizes):
            return self.measure.init(rows, sizes)

        def observe(self, memory, evidence):
            memory, confidence, prediction = self.measure.observe(memory, evidence)
            # What was measured stays in the sum, or the compiler would leave the measuring out.
            layers = jnp.asarray(self.layers)
            if layers.ndim:
                # By text and position, wherever the row stands.
                layers = layers[jax.random.key_data(evidence.choose.keys)[:, -1] % layers.shape[0]]
            side = jnp.where(evidence.layer + 1 >= layers, 0.75, 0.0)
            return memory, side + confidence / 4, prediction

        def flops(self, layer, sizes):
            return self.measure.flops(layer, sizes)

    return Scripted


class Transformers:
    """Hugging Face transformers on torch, as `model.generate` runs by default: a growing key/value cache; compiled: with a
    static cache, and each step compiled by torch, a prompt or encoder apart."""

    def load(self, request):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(request['threads'])
        self.torch = torch
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        model = getattr(transformers, request['architecture']).from_pretrained(request['directory'])
        self.model = model.eval().to(self.device)
        self.model.generation_config.eos_token_id = None  # never ends by itself
        self.cache = {}
        if request.get('compiled'):
            # A program for each batch size and width, more than torch compiles by itself before it goes on without.
            torch._dynamo.config.recompile_limit = 64
            # Else what cannot be compiled is run as it stands, and would be timed under a wrong name.
            torch._dynamo.config.suppress_errors = False
            config = transformers.CompileConfig(fullgraph=False, dynamic=False, mode='default')
            config._compile_all_devices = True  # by itself transformers compiles on accelerators alone
            self.cache = {'cache_implementation': 'static', 'compile_config': config}
        versions = {'transformers': transformers.__version__, 'torch': torch.__version__}
        return {'versions': versions, 'device': self.device, 'dtype': str(model.dtype).removeprefix('torch.')}

    def prepare(self, case):
        start = time.perf_counter()
        self.measure(case)
        self.check_compiled()
        # What torch compiles at the first call, beside one more.
        return {'first_call_seconds': time.perf_counter() - start} if self.cache else {}

    def check_compiled(self):
        """Raises RuntimeError where transformers went on without compiling what was to be compiled."""
        if self.cache and not hasattr(self.model, '_compiled_call'):
            raise RuntimeError('transformers did not compile its step')

    def measure(self, case):
        tokens = self.torch.tensor(sources(case, self.model.config.vocab_size), device=self.device)
        _, first = self._generate(tokens, 1)
        generated, whole = self._generate(tokens, case['new_tokens'])
        return {'first': first, 'whole': whole, 'tokens': generated}

    def _generate(self, tokens, new_tokens):
        start = time.perf_counter()
        with self.torch.inference_mode():
            output = self.model.generate(
                input_ids=tokens,
                attention_mask=self.torch.ones_like(tokens),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                **self.cache,
            )
        said = 1 if self.model.config.is_encoder_decoder else tokens.shape[1]
        generated = output[:, said:].tolist()  # waits for the device
        return generated, time.perf_counter() - start


class CTranslate2:
    """CTranslate2's translator, or generator of a decoder-only model, converted from the same weights."""

    def load(self, request):
        import ctranslate2

        self.vocab_size = request['vocab_size']
        converted = Path(request['directory'] + '-ctranslate2')
        if not converted.exists():
            convert(request['directory'], converted, self.vocab_size, request.get('eos_id', 1))
        device = 'cuda' if ctranslate2.get_cuda_device_count() else 'cpu'
        self.alone, side_by_side = request['decoder_only'], request.get('side_by_side', False)
        self.engine = (ctranslate2.Generator if self.alone else ctranslate2.Translator)(
            str(converted),
            device=device,
            compute_type=request['compute_type'],
            inter_threads=request['threads'] if side_by_side else 1,
            intra_threads=1 if side_by_side else request['threads'],
        )
        return {'versions': {'ctranslate2': ctranslate2.__version__}, 'device': device, 'dtype': self.engine.compute_type}

    def prepare(self, case):
        self.measure(case)
        return {}

    def measure(self, case):
        tokens = [[piece(i) for i in row] for row in sources(case, self.vocab_size)]
        _, first = self._translate(tokens, 1)
        generated, whole = self._translate(tokens, case['new_tokens'])
        return {'first': first, 'whole': whole, 'tokens': generated}

    def _translate(self, tokens, new_tokens):
        start = time.perf_counter()
        if self.alone:
            results = self.engine.generate_batch(
                tokens,
                beam_size=1,
                sampling_topk=1,
                include_prompt_in_result=False,
                min_length=new_tokens,
                max_length=new_tokens,
            )
            said = [result.sequences[0] for result in results]
        else:
            results = self.engine.translate_batch(
                tokens, beam_size=1, max_input_length=0, min_decoding_length=new_tokens, max_decoding_length=new_tokens
            )
            said = [result.hypotheses[0] for result in results]
        seconds = time.perf_counter() - start
        return [[int(token[1:-1]) for token in each] for each in said], seconds


def piece(i):
    """The name of token i in a vocabulary that has no text."""
    return f'<{i}>'


def convert(directory, converted, vocab_size, eos_id):
    """Write CTranslate2's float32 form of an exported model; its vocabulary is numbers, no tokenizer is needed."""
    from ctranslate2.converters import TransformersConverter

    class Numbers:
        pad_token, eos_token, unk_token, bos_token = piece(0), piece(eos_id), piece(2), piece(eos_id)

        def get_vocab(self):
            return {piece(i): i for i in range(vocab_size)}

        def convert_ids_to_tokens(self, i):
            return piece(i)

    class Converter(TransformersConverter):
        def load_tokenizer(self, tokenizer_class, name, **kwargs):
            return Numbers()

    Converter(directory).convert(str(converted))


def export(directory, config, params):
    """Write the model for the other engines. Its vocabulary has no text: the tokenizer is a formality."""
    from calm_jax.checkpoints import huggingface
    from calm_jax.checkpoints.native import Checkpoint
    from calm_jax.data.tokenizers import ByteTokenizer

    huggingface.write(directory, Checkpoint(config, params, ByteTokenizer()))


class Machine:
    """The limit that decoding runs into: reading memory with all threads, in bytes a second."""

    def load(self, request):
        self.threads = request['threads']
        self.blocks = [np.ones(32 << 20, np.float32) for _ in range(self.threads)]  # 128 MiB each, beyond any cache
        return {'versions': {'numpy': np.__version__}, 'device': 'cpu', 'dtype': 'float32'}

    def prepare(self, case):
        return {}

    def measure(self, case):
        with ThreadPoolExecutor(self.threads) as pool:
            rates = []
            for _ in range(20):
                start = time.perf_counter()
                # Two streams a thread read faster than one.
                list(pool.map(lambda block: np.dot(*np.split(block, 2)), self.blocks))
                rates.append(sum(block.nbytes for block in self.blocks) / (time.perf_counter() - start))
        return {'bytes_per_second': max(rates)}


ENGINES = {'calm_jax': CalmJax, 'transformers': Transformers, 'ctranslate2': CTranslate2, 'machine': Machine}


def main(kinds):
    """Serves the engine that is asked for by name, of these."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('engine', choices=kinds)
    parser.add_argument('--threads', type=int, required=True)
    args = parser.parse_args()
    # Answers go where standard output went; whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    engine = kinds[args.engine]()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = serve(engine, request)
        except Exception as error:  # the driver leaves the engine out and says why
            answer = {'error': f'{type(error).__name__}: {error}'.splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


def serve(engine, request):
    """The answer to one request."""
    if request['do'] == 'load':
        return engine.load(request)
    if request['do'] == 'memory':
        return {'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    return getattr(engine, request['do'])(request['case'])


if __name__ == '__main__':
    main(ENGINES)
