"""What becomes of unknown pieces where the vocabulary is not SentencePiece's own, as in Marian."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from keras_transformer.text.protobuf import bytes_field, fields, numbers, packed

# A number that SentencePiece's format leaves to others (200 and above) and its readers skip.
FIELD = 7801


@dataclass(frozen=True)
class Unknowns:
    """A rule that stands inside a SentencePiece model and is applied to the ids it gives.

    Marian takes the pieces of SentencePiece as strings and looks them up in a vocabulary that
    both sides share. So a piece that the vocabulary lacks is unknown, and a stretch of characters
    that SentencePiece does not know has an id where the other side has exactly this piece. In a
    SentencePiece model whose ids are the vocabulary's, the first stand behind the vocabulary and
    the second are pieces as well, here called guests. Two of them side by side are a longer
    unknown stretch, which the vocabulary does not have as a whole.

    Attributes:
        vocab_size: ids from here on are pieces that the vocabulary lacks.
        unk_id: the id of what is unknown.
        guests: ids of the guests.
        num_pieces: of the SentencePiece model.
    """

    vocab_size: int
    unk_id: int
    guests: tuple[int, ...]
    num_pieces: int

    @classmethod
    def read(cls, serialized: bytes) -> "Unknowns | None":
        """Returns the rule of a serialized SentencePiece model, or None where it has none.

        Raises:
            ValueError: when the bytes are not protobuf, or the rule does not fit the model.
        """
        rule: list[int] | None = None
        num_pieces = 0
        for number, start, end in fields(serialized):
            if number == 1:
                num_pieces += 1
            elif number == FIELD:
                rule = numbers(serialized[start:end])
        if rule is None:
            return None
        if len(rule) < 2 or not max(rule[1:]) < rule[0] <= num_pieces:
            raise ValueError(f"its rule for unknown pieces (field {FIELD}) is damaged")
        return cls(rule[0], rule[1], tuple(rule[2:]), num_pieces)

    def to_field(self) -> bytes:
        """Returns the rule as a field, to be put in front of a serialized SentencePiece model."""
        return bytes_field(FIELD, packed([self.vocab_size, self.unk_id, *self.guests]))

    @cached_property
    def stretches(self) -> list[bool]:
        """For each id of the SentencePiece model: whether it is an unknown stretch or a guest."""
        table = [False] * self.num_pieces
        for one in (self.unk_id, *self.guests):
            table[one] = True
        return table

    def apply(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Returns the ids of the vocabulary for rows of ids that SentencePiece gave."""
        result: list[list[int]] = []
        for row in rows:
            settled: list[int] = []
            for unknown, run in groupby(row, self.stretches.__getitem__):
                ids = list(run)
                if unknown:
                    settled.append(ids[0] if len(ids) == 1 else self.unk_id)
                else:
                    settled += [i if i < self.vocab_size else self.unk_id for i in ids]
            result.append(settled)
        return result
