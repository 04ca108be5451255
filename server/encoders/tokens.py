"""How many tokens a text is to the model, and which, before the model sees it."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from server.encoders.errors import TextNotEncodable
from server.encoders.fingerprint import Role

PROBE = "a"  # a text of one ordinary token
TEXTS_A_CALL = 256  # texts tokenized at once: 1 MB or so, a few milliseconds, encodings of 20 MB
# A token is rarely more than 6 characters, but WordPiece makes one token of any word that it doesn't know, be
# it megabytes long. Texts longer than this many characters a token are cut without asking it.
MAX_CHARACTERS_A_TOKEN = 20


class TokenCounter:
    """Counts as the model does: prompt, special tokens and all, but never cutting or padding.

    `tokenizer` is copied, since a model switches truncation on and off in its own. `model_count` gives the
    model's own count for one short text; the difference between the two, `extra`, is found once, here. (Static
    embeddings add no special tokens though their tokenizer could; chat models wrap the text.) None: the model
    takes the tokenizer's tokens as they are.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Mapping[Role, str],
        model_count: Callable[[str, Role], int] | None = None,
    ) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._direction = (tokenizer.truncation or {}).get("direction", "right")
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._prompts = dict(prompts)
        self.extra = dict.fromkeys(Role, 0)  # tokens the model adds beyond what the tokenizer does
        if model_count is not None:
            self.extra = {role: model_count(PROBE, role) - int(self.count([PROBE], role)[0]) for role in Role}

    def count(self, texts: Sequence[str], role: Role) -> NDArray[np.int64]:
        """int64 (n_texts,): tokens of each text with its prompt and special tokens. Releases the GIL."""
        lengths = [len(encoding) for encoding in self._encodings(texts, role)]
        return np.array(lengths, np.int64) + self.extra[role]

    def ids(
        self, texts: Sequence[str], role: Role, max_tokens: int
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
        """The token ids of each text, and what `count` says of it. Releases the GIL.

        Of a text longer than `max_tokens` they are the `max_tokens` that the model reads, special tokens included.
        """
        found, lengths = [], []
        for text, encoding in zip(texts, self._encodings(texts, role), strict=True):
            lengths.append(len(encoding))
            read = encoding if len(encoding) <= max_tokens else self._cut(text, role, max_tokens)
            found.append(np.array(read.ids, np.int32))
        return found, np.array(lengths, np.int64) + self.extra[role]

    def overhead(self, role: Role) -> int:
        """Tokens that prompt and special tokens add to every text."""
        alone = self.tokenizer.encode(PROBE, add_special_tokens=False)
        return int(self.count([PROBE], role)[0]) - len(alone.ids)

    def _encodings(self, texts: Sequence[str], role: Role) -> Iterator[Encoding]:
        for start in range(0, len(texts), TEXTS_A_CALL):
            some = [self._prompts[role] + text for text in texts[start : start + TEXTS_A_CALL]]
            yield from self.tokenizer.encode_batch_fast(some)

    def _cut(self, text: str, role: Role, max_tokens: int) -> Encoding:
        encoding = self.tokenizer.encode(self._prompts[role] + text, add_special_tokens=False)
        n_special = self.tokenizer.num_special_tokens_to_add(False)
        encoding.truncate(max_tokens - n_special, direction=self._direction)
        return self.tokenizer.post_process(encoding)


def check_text(text: str, position: int = 0) -> None:
    """Refuse what no tokenizer takes.

    Raises:
        TextNotEncodable: the text holds half a surrogate pair, which is not Unicode text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextNotEncodable(
            f"the character at {error.start} is half of a surrogate pair, which is no text",
            hint="Send valid Unicode: replace or remove that character.",
            position=position,
        ) from error
