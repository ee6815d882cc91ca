"""The text of a continuation while its tokens are still coming."""

from __future__ import annotations

from collections.abc import Sequence

from fastbert.data.tokenisation import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are no character, or not yet


class TextStream:
    """Text that new tokens add to a prompt, given out in pieces that are final.

    A character whose bytes are spread over several tokens comes when its last byte is there. What may be the beginning
    of a stop text is held back until it is clear; the text ends before the first stop text.

    Args:
        tokenizer: of the model.
        prompt: token ids of the prompt. Its text is not part of the stream, but the tokens are decoded after it:
            whether a space comes between two tokens is for the tokenizer to say.
        stop: texts that end the continuation, none of them empty.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._prompt = list(prompt)
        self._offset = len(tokenizer.decode(self._prompt))
        self._stop = tuple(stop)
        self._given = 0

    def text(self, tokens: Sequence[int]) -> str:
        """What the new tokens add, without a stop text and what follows it."""
        text = self._decoded(tokens)
        return text[: self._end(text)]

    def is_stopped(self, tokens: Sequence[int]) -> bool:
        """Whether the new tokens hold a stop text."""
        text = self._decoded(tokens)
        return self._end(text) < len(text)

    def piece(self, tokens: Sequence[int], *, complete: bool = False) -> str:
        """What has become certain since the last call, from all new tokens so far; all of it once complete."""
        text = self._decoded(tokens)
        end = self._end(text)
        if end == len(text) and not complete:
            text = text.rstrip(_INCOMPLETE)
            end = len(text) - self._held(text)
        text = text[:end]
        given, self._given = self._given, max(self._given, len(text))
        return text[given:]

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode([*self._prompt, *tokens])[self._offset :]

    def _end(self, text: str) -> int:
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return min(places, default=len(text))

    def _held(self, text: str) -> int:
        """How many characters at the end begin a stop text."""
        lengths = [n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return max(lengths, default=0)
