"""Conversations: messages that a chat template makes a prompt of."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]


class Conversation(str):
    """A text to decode that is messages, [{'role': 'user', 'content': '…'}, …], the first a system prompt if any.

    As a text it is their JSON; its ids are those of what the checkpoint's chat template makes of them.

    where: what the messages are called in the ValueError of those that are none.
    """

    messages: Messages

    def __new__(cls, messages: Any, where: str = 'messages') -> 'Conversation':
        conversation = super().__new__(cls, json.dumps(_checked(messages, where), ensure_ascii=False))
        conversation.messages = messages
        return conversation

    def __getnewargs__(self) -> tuple[Messages]:
        """What a copy is made of."""
        return (self.messages,)

    @classmethod
    def of_user(cls, text: str) -> 'Conversation':
        """What a user says first."""
        return cls([{'role': 'user', 'content': text}])


def is_messages(value: Any) -> bool:
    """Whether a value is meant as a conversation: a list of objects."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _checked(messages: Any, where: str) -> Messages:
    if not is_messages(messages):
        raise ValueError(f"{where} is no conversation; expected messages such as [{{'role': 'user', 'content': '…'}}]")
    for place, message in enumerate(messages):
        if not isinstance(message.get('role'), str):
            raise ValueError(f"{where}[{place}] is no message; expected an object such as {{'role': 'user', 'content': '…'}}")
        if not isinstance(message.get('content'), str):
            raise ValueError(f'{where}[{place}]: "content" is no text, and texts alone are read here')
    return messages
