"""Chat templates: what transformers renders of the same messages, and nothing that a template should not do."""

import copy
import datetime
import json
import pickle

import pytest

from calm_jax.data.conversation import Conversation
from calm_jax.data.jsonl import Template
from calm_jax.data.tokenizers import ChatTemplate, load_tokenizer, read_published
from tests.data.test_published_tokenizers import CLASS, LLAMA_3, pairs, write

MESSAGES = [
    {'role': 'system', 'content': ' Be brief. '},
    {'role': 'user', 'content': 'the man <|eot_id|>'},
    {'role': 'assistant', 'content': 'he\nis', 'tool_calls': None},
    {'role': 'user', 'content': 'a "man" & <b>'},
]
TEMPLATES = {
    'turns': "{{ bos_token }}{% for message in messages %}\n{{ message['role'] + ': ' + message.content | trim + eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    'namespace': "{%- set ns = namespace(first=true) %}{% for m in messages %}{%- if m.role == 'user' %}{%- if not ns.first %} "
    '{% endif %}[INST] {{ m.content }} [/INST]{%- set ns.first = false %}{% else %}{% continue %}{%- endif %}{% endfor %}',
    'json': '{{ messages | tojson }}{% if tools is not none %}no{% endif %}',
    'generation': '{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}',
}
SETTINGS = {CLASS: 'PreTrainedTokenizerFast', 'bos_token': LLAMA_3[0], 'eos_token': LLAMA_3[2]}


def folder(tmp_path, template, **settings):
    made = write(tmp_path / 'model', pairs(*LLAMA_3, tokenizer_json=LLAMA_3[0]), {**SETTINGS, **settings}, {})
    if template is not None:
        (made / 'chat_template.jinja').write_text(template)
    return made


@pytest.mark.parametrize('name', TEMPLATES)
def test_a_conversation_is_what_transformers_makes_of_it(tmp_path, name):
    transformers = pytest.importorskip('transformers')
    made = folder(tmp_path, TEMPLATES[name])
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(made)
    ours = read_published(made)
    text = ours.chat.render(MESSAGES)
    assert text == reference.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    theirs = reference.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ours.encode(text, add_special=False) == theirs


def test_a_template_that_asks_for_the_date_is_told_one(tmp_path, monkeypatch):
    utils = pytest.importorskip('transformers.utils.chat_template_utils')
    from transformers import PreTrainedTokenizerFast

    asks = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y %H:%M') }}{% endif %}"
    made, date = folder(tmp_path, asks + TEMPLATES['turns']), datetime.datetime(2026, 1, 31, 9, 30)
    ours = read_published(made).chat
    assert ours.dated and not ChatTemplate(TEMPLATES['turns'], {}).dated
    assert ours.render(MESSAGES, date).startswith('31 Jan 2026 09:30')
    days = [datetime.datetime.now()]
    text = ours.render(MESSAGES)  # of this moment, as transformers has it
    days.append(datetime.datetime.now())
    assert text in [ours.render(MESSAGES, day) for day in days]

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return date

    monkeypatch.setattr(utils, 'datetime', Fixed)
    reference = PreTrainedTokenizerFast.from_pretrained(made)
    assert ours.render(MESSAGES, date) == reference.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)


def test_a_template_is_kept_and_one_of_several_is_the_default(tmp_path):
    named = [{'name': 'tool_use', 'template': 'no'}, {'name': 'default', 'template': TEMPLATES['turns']}]
    ours = read_published(folder(tmp_path, None, chat_template=named))
    ours.save(tmp_path / 'saved')
    again = load_tokenizer(tmp_path / 'saved')
    assert again.chat == ours.chat and again.chat.source == TEMPLATES['turns']
    assert json.loads((tmp_path / 'saved' / 'tokenizer_config.json').read_text())['chat_template'] == named


@pytest.mark.parametrize(
    'template, message',
    [
        ("{{ raise_exception('roles must alternate') }}", 'roles must alternate'),
        ("{{ ''.__class__.__mro__ }}", 'unsafe'),
        ('{{ messages.append(1) }}', 'unsafe'),
        ('{{ documents[0].title }}', 'refuses the messages'),
        ("{% include 'other' %}", 'refuses the messages'),
        ('{{ image_token(messages) }}', "'image_token' is undefined"),
        ('{% vision %}', 'needs what there is not here: .*vision'),
    ],
)
def test_what_a_template_must_not_do_or_lacks_is_named_in_one_line(tmp_path, template, message):
    chat = read_published(folder(tmp_path, template)).chat
    with pytest.raises(ValueError, match=message) as error:
        chat.render(MESSAGES)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'messages, message',
    [
        ([], 'm is no conversation'),
        ('hello', 'm is no conversation'),
        ([{'content': 'a'}], r'm\[0\] is no message'),
        ([{'role': 'user', 'content': [{'type': 'image'}]}], r'm\[0\]: "content" is no text'),
    ],
)
def test_what_is_no_conversation_is_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        Conversation(messages, 'm')


def test_a_conversation_is_copied_as_one():
    talk = Conversation(MESSAGES[:1])
    for copied in (copy.deepcopy(talk), pickle.loads(pickle.dumps(talk))):
        assert isinstance(copied, Conversation) and (copied, copied.messages) == (talk, MESSAGES[:1])


def test_a_field_of_messages_is_a_conversation_and_a_text_is_what_a_user_says():
    record = {'messages': MESSAGES[:1], 'text': 'hi', 'list': ['a']}
    assert Template('messages')(record).messages == MESSAGES[:1]
    assert Template('say: {text}', chat=True)(record).messages == [{'role': 'user', 'content': 'say: hi'}]
    assert not isinstance(Template('text')(record), Conversation)
    with pytest.raises(ValueError, match="field 'list' is a JSON array, expected a string"):
        Template('list')(record)
