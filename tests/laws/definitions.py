"""A decoder that follows the definitions: NumPy, one row, no cache, everything from the start; and exit rules by theirs."""

import inspect
from typing import NamedTuple

import jax
import numpy as np

from calm_jax.depth.vocabulary import FixedPruning
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import init_params

LENGTH = 10
KERNEL = np.linspace(-1, 1, 16)[:, None]  # of an exit classifier


def tiny_config() -> TransformerConfig:
    """A T5 1.1 of few tokens, so that the end-of-sequence turns up and rows end at different steps."""
    return TransformerConfig(
        vocab_size=14,
        emb_dim=16,
        num_heads=2,
        head_dim=6,
        mlp_dim=24,
        num_encoder_layers=2,
        num_decoder_layers=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=6,
    )


def tiny_params(config):
    """Its random parameters, float32."""
    params = jax.tree.map(np.array, jax.jit(init_params, static_argnums=0)(config, jax.random.key(4)))
    # Random weights repeat one token for ever; a head of wider spread does not.
    params['decoder']['logits_dense']['kernel'] *= 3
    return params


def tiny_sources():
    """Five sources, int32 [5, 6], padded behind."""
    rng = np.random.Generator(np.random.PCG64(7))
    tokens = (2 + np.floor(rng.random((5, 6)) * 12)).astype(np.int32)
    for row, length in enumerate((6, 3, 5, 1, 4)):
        tokens[row, length:] = 0
    return tokens


def _takes(function):
    return len([each for each in inspect.signature(function).parameters.values() if each.default is each.empty])


class Reference(NamedTuple):
    tokens: list
    exit_layers: list
    sub_layers: list  # (self-attentions, cross-attentions, feed-forwards) that ran, per token
    confidence: list


class Definition:
    """T5 1.1 in float64 NumPy, after Raffel et al. 2020 and Shazeer 2020, on one row without padding."""

    def __init__(self, config, params):
        self.config = config
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(self, x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config.norm_epsilon) * scale['scale']

    def heads(self, x, kernel):
        return (x @ kernel['kernel']).reshape(len(x), self.config.num_heads, self.config.head_dim)

    def attend(self, p, x, keys, values, bias):
        scores = np.einsum('tnh,snh->nts', self.heads(x, p['query']), keys) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum('nts,snh->tnh', weights, values).reshape(len(x), -1) @ p['out']['kernel']

    def feed(self, p, x):
        gate = x @ p['wi_0']['kernel']
        gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return (gate * (x @ p['wi_1']['kernel'])) @ p['wo']['kernel']

    def bias(self, p, distances, bidirectional):
        """[N, queries, keys] for key minus query positions."""
        table, buckets = p['relpos_bias']['rel_embedding'], self.config.relative_attention_num_buckets
        number = np.zeros(distances.shape, int)
        for index, distance in np.ndenumerate(distances):
            half = buckets // 2 if bidirectional else buckets
            far = abs(distance) if bidirectional else max(0, -distance)
            exact = half // 2
            if far >= exact:
                reach = np.log(far / exact) / np.log(self.config.relative_attention_max_distance / exact)
                far = min(half - 1, exact + int(reach * (half - exact)))
            number[index] = far + (half if bidirectional and distance > 0 else 0)
        return table[:, number]

    def encode(self, tokens, sub_layers=None, norm=True, kept=None, layers=None):
        """The source's states. kept: places of the tokens that go on after the first layer; layers: how many are run."""
        p = self.params['encoder']
        x = self.params['token_embedder']['embedding'][tokens]
        steps = np.arange(len(tokens))
        bias = self.bias(p, steps[None] - steps[:, None], bidirectional=True)
        for i in range(self.config.num_encoder_layers if layers is None else layers):
            if i == 1 and kept is not None:
                x, steps = x[kept], steps[kept]
                bias = self.bias(p, steps[None] - steps[:, None], bidirectional=True)
            layer = p[f'layers_{i}']
            attends, feeds = (True, True) if sub_layers is None else sub_layers(i)
            if attends:
                y = self.norm(x, layer['pre_attention_layer_norm'])
                x = x + self.attend(
                    layer['attention'],
                    y,
                    self.heads(y, layer['attention']['key']),
                    self.heads(y, layer['attention']['value']),
                    bias,
                )
            if feeds:
                x = x + self.feed(layer['mlp'], self.norm(x, layer['pre_mlp_layer_norm']))
        return self.norm(x, p['encoder_norm']) if norm else x

    def self_kv(self, i, x):
        layer = self.params['decoder'][f'layers_{i}']
        y = self.norm(x, layer['pre_self_attention_layer_norm'])
        return self.heads(y, layer['self_attention']['key']), self.heads(y, layer['self_attention']['value'])

    def logits(self, x):
        p = self.params['decoder']
        return (self.norm(x, p['decoder_norm']) @ p['logits_dense']['kernel'])[0]

    def decode(
        self, source, length, leaves=None, sub_layers=None, stand_in='exit', encoder_sub_layers=None, kept=None, read=None
    ):
        """Reference of the greedy decode of source [S], without the padding behind it.

        leaves(layer, position, hidden, previous, logits) → (confidence, whether the token leaves, and where that is not the
        likeliest of the logits what it would say here); None never leaves.
        sub_layers(position, layer), or with the state [1, D] that enters → whether self-attention, cross-attention and
        feed-forward run; None: all do.
        encoder_sub_layers(layer) → whether attention and feed-forward of the encoder's layer run; None: all do.
        kept: places of the source tokens that go on after the encoder's first layer; None: all.
        stand_in: what a layer that the token left below holds for it: the projected 'exit' state, the projected 'first'
        layer's state, the projected 'read' state, or the exit layer's own keys and values ('kv').
        read(layer, state) → what leaves and the head look at, of the state after a layer; None: the state.
        """
        read = read or (lambda layer, state: state)
        p, config = self.params['decoder'], self.config
        encoded = self.encode(source[: 1 + np.flatnonzero(source != config.pad_id)[-1]], encoder_sub_layers, kept=kept)
        keys_values = [[] for _ in range(config.num_decoder_layers)]
        last, result = config.decoder_start_id, Reference([], [], [], [])
        for position in range(length):
            x = self.params['token_embedder']['embedding'][[last]]
            active, visited, ran, confidence, first, left_kv, said = True, 0, np.zeros(3, int), 1.0, x, None, ()
            bias = self.bias(p, np.arange(position + 1)[None] - position, bidirectional=False)
            for i in range(config.num_decoder_layers):
                layer = p[f'layers_{i}']
                if not active:
                    held = {'first': first, 'read': read(visited - 1, x)}.get(stand_in, x)
                    keys_values[i].append(left_kv if stand_in == 'kv' else self.self_kv(i, held))
                    continue
                keys_values[i].append(self.self_kv(i, x))
                left_kv, visited, previous = keys_values[i][-1], i + 1, x
                attends, crosses, feeds = (
                    (True,) * 3 if sub_layers is None else sub_layers(*(position, i, x)[: _takes(sub_layers)])
                )
                if attends:
                    keys, values = (np.concatenate(each) for each in zip(*keys_values[i]))
                    y = self.norm(x, layer['pre_self_attention_layer_norm'])
                    x = x + self.attend(layer['self_attention'], y, keys, values, bias)
                if crosses:
                    cross, y = layer['encoder_decoder_attention'], self.norm(x, layer['pre_cross_attention_layer_norm'])
                    keys, values = self.heads(encoded, cross['key']), self.heads(encoded, cross['value'])
                    x = x + self.attend(cross, y, keys, values, 0)
                if feeds:
                    x = x + self.feed(layer['mlp'], self.norm(x, layer['pre_mlp_layer_norm']))
                first = x if i == 0 else first
                if attends or crosses or feeds:
                    ran += attends, crosses, feeds
                    if leaves is not None:
                        seen, before = read(i, x), read(i - 1, previous)
                        confidence, left, *said = leaves(i, position, seen[0], before[0], self.logits(seen))
                        active = not left
            last = int(said[0]) if said else int(np.argmax(self.logits(read(visited - 1, x))))
            for column, value in zip(result, (last, visited, tuple(ran.tolist()), confidence)):
                column.append(value)
            if last == config.eos_id:
                break
        return result


def gap(threshold):
    """The exit rule by its definition: sorted probabilities."""

    def leaves(layer, position, hidden, previous, logits):
        probabilities = np.sort(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
        confidence = probabilities[-1] - probabilities[-2]
        return confidence, confidence >= threshold

    return leaves


def largest(threshold):
    """The largest probability."""

    def leaves(layer, position, hidden, previous, logits):
        confidence = np.exp(log_softmax(logits)).max()
        return confidence, confidence >= threshold

    return leaves


def listed(rule, ids):
    """An exit rule that is shown the logits of a list of ids and no others; the token is the likeliest of all the same."""

    def leaves(layer, position, hidden, previous, logits):
        return rule(layer, position, hidden, previous, logits[ids])[:2]

    return leaves


def log_softmax(logits):
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


class Pruning:
    """Which words each layer of a token looks at, by definition: it is told of every token from its first layer on."""

    def __init__(self, pruned, num_layers=3, vocabulary=14):
        self.pruned, self.num_layers, self.vocabulary = pruned, num_layers, vocabulary
        self.position = None

    def look(self, layer, position, logits):
        """(words, log-probabilities by word of the whole vocabulary, of what this layer says)."""
        if self.position != position:
            self.position, self.words, self.dropped, self.past = position, None, -np.inf, {}
        self.past[layer] = logits
        if self.words is None or layer + 1 == self.num_layers:
            count = self.pruned.keep if isinstance(self.pruned, FixedPruning) else self.pruned.keep_first or self.vocabulary
            for visited in range(self.pruned.pruning_layer, layer + 2):
                count = self.fewer(count, visited)
            self.words = np.argsort(-logits, kind='stable')[:count]
            others = np.delete(logits, self.words)
            self.dropped = np.logaddexp.reduce(others, initial=-np.inf)
            return self.words, self.normal(logits, self.dropped)
        words, rest = self.words, self.dropped if self.pruned.partition == 'full' else -np.inf
        said = self.normal(logits, rest)
        ranked = words[np.argsort(-logits[words], kind='stable')]
        self.words = ranked[: self.fewer(len(words), layer + 1)]
        gone = ranked[len(self.words) :]
        self.dropped = np.logaddexp(self.dropped, np.logaddexp.reduce(logits[gone], initial=-np.inf))
        return words, said

    def fewer(self, count, layer):
        least = getattr(self.pruned, 'keep_least', 0)
        return max(least, int(count / (1 + (count - least) / least * layer / self.num_layers))) if least else count

    def normal(self, logits, rest):
        """Log-probabilities: those of the words of now sum to one together with the rest."""
        words = self.words
        return logits - np.logaddexp(np.logaddexp.reduce(logits[words]), rest)


def pruned_gap(threshold, pruned):
    pruning = Pruning(pruned)

    def leaves(layer, position, hidden, previous, logits):
        if layer + 1 < pruned.pruning_layer:
            return 1.0, False
        words, said = pruning.look(layer, position, logits)
        probabilities = np.sort(np.exp(said[words]))
        confidence = probabilities[-1] - (probabilities[-2] if len(words) > 1 else 0)
        # Who never leaves says what the whole head does.
        return (
            confidence,
            confidence >= threshold,
            (words[np.argmax(logits[words])] if confidence >= threshold else np.argmax(logits)),
        )

    return leaves


def contrast(threshold, amateurs, alpha=0.1, emits='model'):
    """amateurs: layer → {earlier layer: distance}, of which the most divergent per distance is taken."""
    past = {}

    def leaves(layer, position, hidden, previous, logits):
        expert = log_softmax(logits)
        past[layer] = expert
        likely = np.exp(expert) >= alpha * np.exp(expert).max()
        p, scores, spoken = np.exp(expert), np.exp(expert), expert
        rates = {}
        for earlier, distance in amateurs(layer).items():
            a = np.exp(past[earlier])
            rates[earlier] = (p * np.log(2 * p / (p + a)) + a * np.log(2 * a / (p + a)))[likely].sum() / 2 / distance
        if rates:
            ratio = np.where(likely, p / np.exp(past[max(rates, key=rates.get)]), 0)
            scores = np.where(likely, ratio / ratio.sum() * p[likely].sum(), p)
            spoken = {'model': expert, 'auto_contrastive': scores, 'dola': ratio}[emits]
        top = np.sort(scores)
        return top[-1] - top[-2], top[-1] - top[-2] >= threshold, np.argmax(spoken)

    return leaves


def half(layer):
    return {(layer + 1) // 2 - 1: 1} if layer else {}


def since_second(layer):
    return {earlier: layer - earlier for earlier in range(1, layer)}


def decaying_classifier(threshold, temperature, kernel=KERNEL, length=LENGTH):
    def leaves(layer, position, hidden, previous, logits):
        confidence = 1 / (1 + np.exp(-(hidden @ kernel[:, 0])))
        at = np.clip(0.9 * threshold + 0.1 * np.exp(-temperature * position / length), 0, 1)
        return confidence, confidence >= at

    return leaves


def similarity(threshold):
    def leaves(layer, position, hidden, previous, logits):
        if layer == 0:
            return 0.0, threshold <= 0
        cosine = max(0.0, hidden @ previous / np.linalg.norm(hidden) / np.linalg.norm(previous))
        return cosine, cosine >= threshold

    return leaves
