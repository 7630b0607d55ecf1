"""A model ready to use: parameters, tokenizer, heads; texts in, texts with their depth and cost out."""

import dataclasses
import datetime
import itertools
import math
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import certified
from calm_jax.answers import Answer, label_of, span_of
from calm_jax.calibration import Certificate
from calm_jax.checkpoints import native
from calm_jax.compilation import compile_seconds
from calm_jax.data.conversation import Conversation, Messages
from calm_jax.data.embedded import embedded
from calm_jax.data.example_ids import ExampleIds, sequence_id
from calm_jax.data.jsonl import Template
from calm_jax.data.padding import places_left
from calm_jax.data.passage import answerable
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.data.windows import WINDOW, DecodeBatch, decode_windows
from calm_jax.decoding import codec
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import begin, of_use, step
from calm_jax.decoding.packing import NEVER, Packing, measured
from calm_jax.decoding.trace import said
from calm_jax.flight import decode_batches, fly_window
from calm_jax.languages import Languages
from calm_jax.memory import Held, check_memory
from calm_jax.models.config import TransformerConfig
from calm_jax.models.joined import join, split
from calm_jax.models.transformer import Transformer
from calm_jax.options import check_values
from calm_jax.output import DecodeReport, Output, Outputs
from calm_jax.output_rows import OutputRows, Sources, beams
from calm_jax.readouts import read_window
from calm_jax.request import (
    BATCH_SIZE,
    PACKS,
    Options,
    Request,
    check_certificate_alone,
    check_combination,
    check_count,
    check_names,
    check_packs,
    check_reads,
    checked_pack,
    checked_rows,
    chosen_decoding,
)
from calm_jax.stop_strings import StopStrings
from calm_jax.streamed_text import StreamedText
from calm_jax.tasks import Spans, Task
from calm_jax.types import Array, HeadColumns

PACKED_BATCHES = 16  # of a window, from which on packing is worth what compiling it takes
NEW_TOKENS, SOURCE_LENGTH = 128, 512  # limits where neither the decoding nor the checkpoint says any


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A model with its tokenizer and trained heads; `load` makes one.

    params: laid out for decoding (`calm_jax.models.joined`), or under t5x's names, which decode alike but slower. Arrays in it
    may be replaced by others; what the model derives from an array is made again then. (An array of NumPy that is changed in
    place is the same array, and is not seen.)
    heads: {'exit_classifier': {'kernel': [D, 1], 'bias': [1]}, 'frequent_ids': {'ids': [N]}}, what there is of them, or None.
    generation: the checkpoint's defaults, a document of `calm_jax.decoding.codec` with limits, choice and rules.
    date: what a chat template that asks for the time is told; None: the moment at which it asks.
    task: what is asked of a text in place of how it goes on, `calm_jax.tasks.Labels` or `Spans`, whose head is heads['task'].
    """

    config: TransformerConfig
    params: dict
    tokenizer: Tokenizer
    heads: dict | None = None
    generation: dict = dataclasses.field(default_factory=dict)
    date: datetime.datetime | None = None
    task: Task | None = None
    _derived: dict = dataclasses.field(default_factory=dict, init=False, compare=False)

    def __repr__(self) -> str:
        config = self.config
        stacks = (
            config.num_decoder_layers if config.decoder_only else f'{config.num_encoder_layers} + {config.num_decoder_layers}'
        )
        head = self.params['decoder'].get('logits_dense', {})
        copied = head['tied_kernel'].size if 'tied_kernel' in head else 0
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params)) - copied
        heads = f', heads {", ".join(self.heads)}' if self.heads else ''
        return f'Model({stacks} layers, {count / 1e6:.3g} M parameters, {config.dtype}, vocabulary {config.vocab_size}{heads})'

    @property
    def decoding(self) -> Decoding:
        """How this checkpoint decodes where nothing else is said."""
        return self.resolve(codec.from_json(self.generation))

    def resolve(self, decoding: Decoding) -> Decoding:
        """The decoding with its limits as numbers. Raises ValueError where this model cannot do it."""
        check_values(decoding.limits, 'limits')
        limits, own = decoding.limits, codec.from_json(self.generation).limits
        if limits.max_new_tokens is None and limits.max_length is None:
            limits = dataclasses.replace(limits, max_length=own.max_length)
        length, source_length = self.limits(
            *(
                None if each is None else int(each)
                for each in (limits.max_new_tokens, limits.max_source_length, limits.max_length)
            )
        )
        if limits.max_length is not None:
            limits = dataclasses.replace(limits, max_length=int(min(limits.max_length, self._positions)))
        limits = dataclasses.replace(limits, max_source_length=source_length, max_new_tokens=length)
        resolved = dataclasses.replace(decoding, limits=limits)
        if not self.config.decoder_only:  # there is no prompt
            resolved = dataclasses.replace(resolved, plan_prompt='full')
        resolved.check(self.config.sizes)
        return resolved

    def limits(
        self, max_new_tokens: int | None = None, max_source_length: int | None = None, max_length: int | None = None
    ) -> tuple[int, int]:
        """The two limits, in tokens: what is asked for, or else the checkpoint's, or else 128 and 512, as far as the model has
        positions, which a text that is read for a task shares with none. max_length: the most of both together; where nothing
        else is said of new tokens, all but one may be new.

        Raises ValueError where more is asked for than there are positions.
        """
        own, config, positions = codec.from_json(self.generation).limits, self.config, self._positions
        if max_length is not None:
            unsaid, new = max(1, min(max_length, positions) - 1), 1
        else:
            unsaid, new = own.max_new_tokens or min(NEW_TOKENS, positions // 2), math.inf
        length = max_new_tokens or unsaid
        shared = config.decoder_only and self.task is None
        left = positions - (min(length, new) if shared else 0)
        source_length = max_source_length or min(own.max_source_length or SOURCE_LENGTH, left)
        if length > positions or source_length > left or left < 1:
            raise ValueError(
                f'max_new_tokens {length} and max_source_length {source_length}: the model has {positions} positions'
                + (' for both together' if shared else ' for each')
            )
        return int(length), int(source_length)

    @property
    def _positions(self) -> float:
        """How many positions there are; ∞ where there is no end of them."""
        return self.config.max_positions if self.config.positions == 'learned' else math.inf

    @property
    def fingerprints(self) -> dict[str, str]:
        """What this model is recognised by: see `calm_jax.certified.fingerprints`. Computed once for the same arrays."""
        arrays = jax.tree.leaves((self.params, self.heads))
        return dict(
            self._derive(
                'fingerprints',
                arrays,
                lambda: certified.fingerprints(self.config, self.params, self.heads, self.tokenizer, self.task),
            )
        )

    def at(self, date: datetime.datetime | None) -> 'Model':
        """The same model, whose chat template is told this date."""
        other = dataclasses.replace(self, date=date)
        object.__setattr__(other, '_derived', self._derived)  # of the same arrays
        return other

    def dated(self, texts: Iterable[str], date: datetime.datetime | None = None) -> 'Model':
        """The model at one date, if what it makes of these texts depends on it: its own, or else `date`, or else now. Without
        one, where no text is a conversation or the chat template does not ask."""
        chat = self.tokenizer.chat
        if chat is None or not any(isinstance(text, Conversation) for text in texts) or not chat.dated:
            return self.at(None)
        return self.at(self.date or date or datetime.datetime.now().replace(microsecond=0))

    @overload  # a text is a sequence of texts too; the first overload that fits is taken
    def generate(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, decoding: Decoding | None = None, **options: Unpack[Options]
    ) -> Output: ...

    @overload
    def generate(
        self, texts: Sequence[str | Mapping[str, Any] | Messages], decoding: Decoding | None = None, **options: Unpack[Options]
    ) -> Outputs: ...

    def generate(self, texts: Any, decoding: Decoding | None = None, **options: Unpack[Options]) -> Any:
        """The output of a text, or of several in their order, decoded as they are asked for.

        Among several, a list of messages, {'role': 'user', 'content': '…'}, is a conversation: the checkpoint's chat template
        makes a prompt of it.

        decoding: how, exactly; limits that it leaves open are the checkpoint's. None: as the checkpoint says, with the parts
        that options name in place of its own. options: see `calm_jax.request.Options`. With num_return_sequences N a text gives
        N outputs, one after the other.

        Raises TypeError or ValueError in one line, before anything is decoded, for what cannot be done.
        """
        single = isinstance(texts, str)
        texts = [texts] if single else texts
        if not isinstance(texts, Sequence):
            raise TypeError(
                f'texts is {type(texts).__name__}; expected a text or a list of texts or records (stream takes any iterable)'
            )
        request = self._request('generate', decoding, options, len(texts))
        checked = [request.text(text, i) for i, text in enumerate(texts)]
        outputs = Outputs(self._outputs(checked, request), len(checked) * request.sequences)
        return outputs[0] if single and request.sequences == 1 else outputs

    def stream(
        self,
        texts: Iterable[str | Mapping[str, Any] | Messages],
        decoding: Decoding | None = None,
        *,
        in_order: bool = False,
        skip: Collection[int] = (),
        watch: Callable[[DecodeReport], None] | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Output]:
        """Outputs of any number of texts in bounded memory, as they end; `text_index` says of which text each is. A window of
        64 batches is read ahead, and decoded from its shortest texts on.

        in_order: in the order of the texts instead, those of a window when all of it is decoded.

        Arguments and errors as `generate`; a text that is none raises when its turn comes. skip: indices of texts that need no
        output, such as those that an interrupted run left behind. watch: called with what decoding took, some rows at a time.
        """
        if isinstance(texts, str):
            raise TypeError('texts is a text; stream takes an iterable of them (generate takes one)')
        request = self._request('stream', decoding, options, None)
        checked = (request.text(text, i) for i, text in enumerate(texts))
        return self._outputs(checked, request, skip, watch, in_order)

    def stream_tokens(self, prompt: str, decoding: Decoding | None = None, **options: Unpack[Options]) -> Iterator[str]:
        """The text that answers a prompt, in parts, as it is said; together they are `generate`'s.

        A part ends where a character ends; those of a round of drafts come together. Arguments and errors as `generate`; beams
        say nothing before their end, and neither log-probabilities nor several sequences are of a text.
        """
        if self.task is not None:
            raise ValueError(
                f'the model answers with {self.task.kind}: nothing of an answer is said before its end; use generate'
            )
        request = self._request('stream_tokens', decoding, options, 1)
        if isinstance(request.decoding.choice, Beam):
            raise ValueError('stream_tokens with beam search: no token is certain before the end; pass choice=Greedy()')
        for name, value in (('log_probabilities', request.log_probabilities), ('num_return_sequences', request.sequences > 1)):
            if value:
                raise ValueError(f'stream_tokens gives a text alone; {name} belongs to generate')
        return self._text_parts(request.text(prompt, 0), request)

    def check(self, decoding: Decoding | None = None, *, count: int | None = None, **options: Unpack[Options]) -> None:
        """Raises what `generate` would raise of these arguments and `count` texts."""
        self._request('check', decoding, options, count)

    def packing(self, batch_size: int, batches: int, pack: str | Packing = PACKS[0]) -> Packing:
        """How rows that are still inside are packed, of so many batches that are decoded together; never, where `pack` says so
        or they are too few for what compiling it takes. pack: as `calm_jax.request.Options`.

        Raises ValueError for a packing that these batches or this model cannot have.
        """
        pack = checked_pack(pack, self.config.num_decoder_layers, batch_size)
        if isinstance(pack, Packing):
            return pack
        if pack != 'auto' or batches < PACKED_BATCHES:
            return NEVER
        return measured(self.config.sizes, batch_size, jax.default_backend())

    def pack_of(self, texts: int | None, batch_size: int, pack: str | Packing = PACKS[0]) -> str | Packing:
        """What a pack comes to where so many texts are decoded (None: more than a window of them): a packing; 'refill'; or
        'none', which is what it is where a batch is alone, or of one row. ValueError for what is no pack."""
        batches = WINDOW if texts is None else math.ceil(texts / batch_size)
        if packing := self.packing(batch_size, batches, pack):
            return packing
        return 'none' if pack == 'none' or batches <= 1 or batch_size == 1 else 'refill'

    def save(self, directory: str | os.PathLike, *, dtype: str | None = None, overwrite: bool = False) -> None:
        """Writes a native checkpoint, whole or not at all."""
        native.save(
            directory,
            self.config,
            split(self.params, self.config),
            self.tokenizer,
            self.heads,
            self.generation,
            self.task,
            dtype=dtype,
            overwrite=overwrite,
        )

    def encode(self, text: str, language: str | None = None, date: datetime.datetime | None = None) -> list[int]:
        """Ids of a source or prompt, without an end of sequence; a decoder-only model needs one to start from. Of a
        `Conversation`, those of what the chat template makes of it. language: of the text; None: the checkpoint's own. date: in
        place of the model's own.

        Raises ValueError for a conversation without a template, or that the template refuses, and for a text that spells out a
        token of the tokenizer's that the model does not embed.
        """
        if isinstance(text, Conversation):
            if self.tokenizer.chat is None:
                raise ValueError('the checkpoint has no chat template; pass the text that its prompts have')
            ids = self.tokenizer.encode(self.tokenizer.chat.render(text.messages, date or self.date), add_special=False)
        else:
            ids = (self.tokenizer if language is None else self.tokenizer.languages[language]).encode(text)
        ids = list(embedded(ids, self.tokenizer, self.config.vocab_size))
        return ids or [self.config.decoder_start_id] if self.config.decoder_only else ids

    @property
    def padding(self) -> dict:
        """How `decode_windows` lays out what this model reads: sources end and are padded behind; prompts go on, are padded
        before, and where they are too long lose their beginning, but for what the tokenizer starts with, in any language."""
        alone, tokenizers = self.config.decoder_only, (self.tokenizer, *self.tokenizer.languages.values())
        return {
            'pad_id': self.config.pad_id,
            'eos_id': None if alone or self.tokenizer.end_ids else self.config.eos_id,
            'left': alone,
            'side': 'left' if alone else self.tokenizer.truncation_side,
            'starts': [each.start_ids for each in tokenizers],
            'ends': [each.end_ids for each in tokenizers],
        }

    @property
    def decoding_params(self) -> dict:
        """`params`, with the kernel of a tied head made of the embedding that stands there now."""
        head = self.params['decoder'].get('logits_dense', {})
        if 'tied_kernel' not in head:
            return self.params
        embedding = self.params['token_embedder']['embedding']
        kernel = self._derive('tied_kernel', [embedding], lambda: jnp.transpose(embedding))
        return {**self.params, 'decoder': {**self.params['decoder'], 'logits_dense': {**head, 'tied_kernel': kernel}}}

    def head_table(self, decoding: Decoding) -> Array | HeadColumns | None:
        """The head as the decoding's measure reads it beside the whole, made when first asked for, and kept: as [V, E] where it
        prunes, unless that is the embedding, which is laid out so; HeadColumns of the ids that it lists."""
        measure = decoding.exit and decoding.exit.measure
        arrays = jax.tree.leaves((self.params['token_embedder'], self.params['decoder'].get('logits_dense')))
        if measure is not None and measure.listed is not None:
            ids = np.asarray(measure.listed, np.int32)
            return self._derive(('head_columns', ids.tobytes()), arrays, lambda: _of_head(self, 'head_columns', ids))
        if measure is None or not measure.prunes or self.config.tied_head:
            return None
        return self._derive('head_table', arrays, lambda: _of_head(self, 'head_table'))

    def _derive(self, name: Hashable, arrays: Sequence[Any], make: Callable[[], Any]) -> Any:
        """What `make` makes of arrays, kept until others stand in their place."""
        sources, value = self._derived.get(name, ((), None))
        if len(sources) != len(arrays) or any(one is not other for one, other in zip(sources, arrays)):
            value = make()
            self._derived[name] = (tuple(arrays), value)
        return value

    def _request(self, function: str, decoding: Decoding | None, options: Options, count: int | None) -> Request:
        """The call, checked. count: how many texts there are; None where that is not known."""
        check_names(function, options, tuple(Options.__annotations__))
        sequences = check_count('num_return_sequences', options.get('num_return_sequences', 1))
        log_probabilities = bool(options.get('log_probabilities', False))
        given, batch_size, template, date = options.get('certificate'), options.get('batch_size'), None, self.date
        if batch_size is not None:
            batch_size = check_count('batch_size', batch_size)
        if given is not None:
            check_certificate_alone(decoding, options)
            if not isinstance(given, Certificate | str | os.PathLike):
                raise TypeError(f'certificate is {given!r}; expected a Certificate or the path of one')
            certificate = given if isinstance(given, Certificate) else Certificate.load(given)
            batch_size = batch_size or certified.recorded_batch_size(certificate) or BATCH_SIZE
            examples = None if count is None else count * sequences
            pack = options.get('pack', PACKS[0])
            decoding = self.certified(certificate, batch_size, examples, options.get('classes', ()), pack)
            field = certified.recorded_source_field(certificate)
            template = None if field is None else Template(field, certified.of_conversations(certificate))
            date = date or certified.recorded_date(certificate)
        else:
            decoding = self.resolve(chosen_decoding(lambda: self.decoding, decoding, options))
        check_combination(decoding, sequences, log_probabilities)
        if self.task is not None:
            check_reads(self.task, decoding, options)
        layers, size = self.config.num_decoder_layers, batch_size or BATCH_SIZE
        rows = checked_rows(options.get('rows'), decoding, self.config.sizes, count)
        named = options.get('source_language'), options.get('target_language')
        languages = Languages(self.tokenizer, self.config.eos_id, *named)
        languages.check(count)
        pack = checked_pack(options.get('pack', PACKS[0]), layers, size)
        check_packs(pack, decoding, rows)
        return Request(decoding, languages, size, rows, sequences, log_probabilities, pack, template, date)

    def certified(
        self,
        certificate: Certificate,
        batch_size: int,
        examples: int | None = None,
        classes: Sequence[type] = (),
        pack: str | Packing = PACKS[0],
    ) -> Decoding:
        """The decoding of a certificate, where it covers this model; what may change a few tokens by rounding is logged once.

        examples: how many there are, which decides the rows of small batches, and with `pack` how they are kept together.
        Raises ValueError where it does not cover.
        """
        try:
            decoding = self.resolve(certified.decoding_of(certificate, self.heads, classes))
        except ValueError:
            certified.check_model(certificate, self.fingerprints)  # of another model all else is beside the point
            raise
        environment = certified.environment(batch_size, self.pack_of(examples, batch_size, pack), examples)
        certified.warn(certified.check(certificate, decoding, self.fingerprints, environment))
        certified.warn(certified.date_warnings(certificate, self.date))
        return decoding

    def _outputs(
        self,
        texts: Iterable[str],
        request: Request,
        skip: Collection[int] = (),
        watch: Callable[[DecodeReport], None] | None = None,
        in_order: bool = True,
    ) -> Iterator[Output]:
        """Outputs of checked texts, in order or as they end."""
        ids_of, waiting = ExampleIds(), {}  # ids of the examples that are read and not decoded
        asked: dict[int, str] = {}  # their texts, where those are answered from

        def sources():
            for index, text in enumerate(texts):
                encoded = self.encode(text, request.languages.of_source(index), request.date)
                if isinstance(self.task, Spans):
                    asked[index] = text
                example_id = ids_of(text)
                for sequence in range(request.sequences):
                    waiting[index * request.sequences + sequence] = sequence_id(example_id, sequence)
                    yield encoded

        layout = {'max_source_length': request.source_length, 'depth': request.depth, **self.padding}
        for window in decode_windows(sources(), request.batch_size, **layout):
            ids = {row: waiting.pop(row) for batch in window for row in batch.rows.tolist() if row >= 0}
            wanted = {row for row in ids if row // request.sequences not in skip}
            outputs: dict[int, Output] = {}
            if self.task is None:
                decoded = self._decoded(window, request, ids, wanted)
            else:
                decoded = self._read(window, request, ids, wanted, asked)
            for some, report in decoded:
                if watch is not None:
                    watch(report)
                if in_order:
                    outputs |= some
                else:
                    yield from some.values()
            yield from (outputs[row] for row in sorted(outputs))

    def _decoded(
        self, window: Sequence[DecodeBatch], request: Request, ids: Mapping[int, int], wanted: Collection[int]
    ) -> Iterator[tuple[dict[int, Output], DecodeReport]]:
        """The wanted outputs by row, ascending, of some rows of a window after the others, and what they took.

        ids: of the examples, by row.
        """
        parts = {
            'example_ids': lambda rows: np.array([ids.get(row, 0) for row in rows.tolist()], np.int32),
            'settings': lambda rows: request.rows_at(rows // request.sequences),
            'head_table': self.head_table(request.decoding),
            'log_probabilities': request.log_probabilities,
            'packing': self.packing(request.batch_size, len(window), request.pack),
        }
        together = isinstance(request.decoding.choice, Beam) or request.pack == 'none'
        flight = not (together or len(window) == 1 or request.batch_size == 1)
        stops = StopStrings(self.tokenizer, request.decoding.limits.stop_strings)
        widths = sorted({batch.tokens.shape[1] for batch in window})
        held = Held(
            self.config,
            request.decoding.resolved(),
            widths[-1],
            request.new_tokens,
            narrower=widths[-2] if flight and len(widths) > 1 else 0,
            beams=beams(request.decoding),
            flight=flight or bool(stops.texts),
            packing=of_use(parts['packing'], request.decoding, request.rows),
        )
        rows = max(batch.tokens.shape[0] for batch in window)
        shape = held._replace(decoding=jax.tree.structure(held.decoding)), rows
        self._derive(('memory', shape), [self.config], lambda: check_memory(held, rows))  # once, before it is compiled
        model = self.config, self.decoding_params
        if flight or stops.texts:
            # Rows that end at a text do so in flight, be it of their batch alone.
            flights = [(window, request.batch_size)] if flight else [([batch], len(batch.rows)) for batch in window]
            parts['stopped'] = stops.ended if stops.texts else None
            each = (fly_window(*model, some, request.decoding, slots, wanted=wanted, **parts) for some, slots in flights)
            landings = itertools.chain.from_iterable(each)
        else:
            landings = decode_batches(*model, window, request.decoding, wanted=wanted, **parts)
        sources, rows_of = Sources(window), OutputRows(self.config, self.tokenizer, request)
        before = compile_seconds()
        for landing in landings:
            compiling, before = compile_seconds() - before, compile_seconds()
            landing = landing._replace(seconds=max(0.0, landing.seconds - compiling), trace=stops.cut(landing.trace))
            outputs = rows_of.landed(landing, sources)
            kept = {row: outputs[row] for row in sorted(outputs) if row in wanted}
            yield kept, landing.report(beams(request.decoding))._replace(compile_seconds=compiling)

    def _read(
        self,
        window: Sequence[DecodeBatch],
        request: Request,
        ids: Mapping[int, int],
        wanted: Collection[int],
        asked: dict[int, str],
    ) -> Iterator[tuple[dict[int, Output], DecodeReport]]:
        """As `_decoded`, where the model has a task; asked: texts by row, taken out of it as they are answered."""
        task = self.task
        assert task is not None and self.heads is not None  # checked
        readings = read_window(
            self.config,
            self.decoding_params,
            self.heads['task'],
            window,
            request.decoding,
            task,
            example_ids=lambda rows: np.array([ids.get(row, 0) for row in rows.tolist()], np.int32),
            wanted=wanted,
        )

        def answer(row: int, scores: np.ndarray) -> Answer:
            if isinstance(task, Spans):
                return self._span(scores, asked.pop(row), request, task)
            return label_of(scores, task)

        rows_of, before = OutputRows(self.config, self.tokenizer, request), compile_seconds()
        for reading in readings:
            compiling, before = compile_seconds() - before, compile_seconds()
            report = reading.report
            report = report._replace(seconds=max(0.0, report.seconds - compiling), compile_seconds=compiling)
            answers = rows_of.read(reading, answer, report.seconds / len(reading.rows))
            yield {row: answers[row] for row in sorted(answers) if row in wanted}, report

    def _span(self, scores: np.ndarray, text: str, request: Request, task: Spans) -> Answer:
        """The answer of a text, of whose tokens, as far as it was read, these are the scores [n, 2]."""
        layout, ids = self.padding, self.encode(text)
        limit = request.source_length - (layout['eos_id'] is not None)
        places = places_left(ids, limit, layout['side'], layout['starts'], layout['ends'])
        offsets = self.tokenizer.offsets(text) or [(0, 0)] * len(ids)  # of an empty prompt, the id that it starts from
        offsets = [offsets[place] for place in places] + [(0, 0)] * (len(scores) - len(places))
        return span_of(scores, offsets, text, answerable(text), task)

    def _text_parts(self, prompt: str, request: Request) -> Iterator[str]:
        source = self.encode(prompt, request.languages.of_source(0), request.date)
        ((batch,),) = decode_windows([source], 1, max_source_length=request.source_length, **self.padding)
        text, params = StreamedText(self.tokenizer), self.decoding_params
        state = begin(
            self.config,
            params,
            batch.tokens,
            batch.mask,
            request.decoding,
            rows=request.rows_at(batch.rows),
            example_ids=np.array([ExampleIds()(prompt)], np.int32),
            head_table=self.head_table(request.decoding),
            outermost=True,
        )
        tokens, stops = [], StopStrings(self.tokenizer, request.decoding.limits.stop_strings)

        def told(state):
            while state.carry.alive[0]:
                state = step(self.config, params, state, request.decoding, outermost=True)
                yield from said(state, 0, len(tokens))

        for token in told(state):
            tokens.append(token)
            if token not in self.config.eos_ids and (part := text.add(token)):
                yield part
            if stops.ended(0, tokens):
                break
        if part := text.end():
            yield part


def load(directory: str | os.PathLike, dtype: str | None = None) -> Model:
    """The model in a native checkpoint directory.

    dtype: of parameters and activations; None keeps what was stored, but float16, which overflows where these models
    were not trained in it, and on a CPU bfloat16, which is slow there, become float32.
    Raises FileNotFoundError or ValueError, in one line, for a directory that is not a whole checkpoint.
    """
    checkpoint = native.load(directory, dtype)
    params, config = checkpoint.params, checkpoint.config
    if dtype is None:
        stored = str(jnp.result_type(*jax.tree.leaves(params)))
        widen = stored == 'float16' or (stored == 'bfloat16' and jax.default_backend() == 'cpu')
        dtype = 'float32' if widen else stored
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    params = join(jax.tree.map(jnp.asarray, params), config)
    config = dataclasses.replace(config, dtype=dtype)
    generation = checkpoint.generation or {}
    if checkpoint.task is not None:  # what is published beside a head may say how tokens are said, which nothing here does
        length = codec.from_json(generation).limits.max_source_length
        generation = {} if length is None else {'limits': {'max_source_length': length}}
    model = Model(config, params, checkpoint.tokenizer, checkpoint.heads, generation, task=checkpoint.task)
    head = params['decoder'].get('logits_dense', {})
    if 'tied_kernel' in head:  # made of this embedding just now
        model._derive('tied_kernel', [params['token_embedder']['embedding']], lambda: head['tied_kernel'])
    return model


def _of_head(model: Model, method: str, *arguments: Any) -> Any:
    """What a method of the transformer makes of the head."""
    apply = Transformer(model.config).apply
    return jax.jit(lambda params, *arguments: apply({'params': params}, *arguments, method=method))(model.params, *arguments)
