"""The reference WordPiece tokeniser: BERT uncased, by the ``tokenizers`` package.

Special tokens in a text ("[MASK]") are plain text here: they are split at their
brackets like any other word. Only the first and the last id are special.
"""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

MAX_TOKENS = 128  # Ids of one text, [CLS] and [SEP] included.
PAD, UNKNOWN, CLS, SEP = 0, 100, 101, 102


def reference_tokenizer(vocabulary: Path) -> Tokenizer:
    model = models.WordPiece.from_file(str(vocabulary), unk_token="[UNK]",
                                       max_input_chars_per_word=100)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> tuple[list[int], bool]:
    """Returns [CLS] ids [SEP], at most ``MAX_TOKENS``, and whether any id was cut off."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    room = MAX_TOKENS - 2
    return [CLS, *ids[:room], SEP], len(ids) > room
