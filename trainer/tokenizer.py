"""The byte-pair tokenizer: trained with rustbpe, kept as plain data, used through tiktoken.

A tokenizer file is JSON: the split pattern, every token's bytes in base64 in order of its id, and the special tokens.
It is never a pickle. The byte length of a token is the length of its byte string (decoding first would count the
replacement character's three bytes for one byte of cut-off UTF-8).
"""

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import rustbpe
import tiktoken

BOS = "<|bos|>"
# GPT-4's split with numbers in groups of at most two digits: small vocabularies have no room for thousands of numbers.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
MAX_VOCAB = 65_535  # token ids are stored as uint16


@dataclass(frozen=True)
class Tokenizer:
    """A trained vocabulary. Ids run from 0: first `tokens` in order, then the one special token, BOS."""

    pattern: str
    tokens: tuple[bytes, ...]

    @property
    def bos_id(self) -> int:
        return len(self.tokens)

    @property
    def vocab_size(self) -> int:
        return len(self.tokens) + 1

    def encoding(self) -> tiktoken.Encoding:
        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(
            "autoresearch-swarm", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens={BOS: self.bos_id}
        )

    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int64: bytes per token; 0 for BOS, which no score counts."""
        return np.array([*(len(token) for token in self.tokens), 0], dtype=np.int64)

    def to_json(self) -> bytes:
        tokens = [base64.b64encode(token).decode("ascii") for token in self.tokens]
        content = {"pattern": self.pattern, "special": {BOS: self.bos_id}, "tokens": tokens}
        return (json.dumps(content, ensure_ascii=True, indent=0, sort_keys=True) + "\n").encode("ascii")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding of `vocab_size` ids in all, BOS included; fewer when the texts are short.

    The same texts give the same tokens everywhere.

    Raises:
        ValueError: more ids than fit into the stored form, or fewer than there are bytes.
    """
    if not 257 <= vocab_size <= MAX_VOCAB:
        raise ValueError(f"a vocabulary of {vocab_size} tokens: 257 to {MAX_VOCAB} can be stored as uint16")
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=SPLIT_PATTERN)
    ranks = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    return Tokenizer(SPLIT_PATTERN, tuple(bytes(token) for token, _ in ranks))


def tokenizer_from_json(content: bytes) -> Tokenizer:
    """Read what `Tokenizer.to_json` wrote.

    Raises:
        ValueError: the content is not a tokenizer.
    """
    try:
        fields = json.loads(content)
        tokens = tuple(base64.b64decode(token, validate=True) for token in fields["tokens"])
        tokenizer = Tokenizer(str(fields["pattern"]), tokens)
    except (KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise ValueError(f"not a tokenizer file: {error!r}") from error
    if len(set(tokens)) != len(tokens) or not 256 <= len(tokens) < MAX_VOCAB or b"" in tokens:
        raise ValueError(f"not a tokenizer file: {len(tokens)} tokens, repeated, empty or too many")
    return tokenizer
