"""The tokenizer and the rows of these tests."""

from corpus_fixtures import rows_BP, tokenizer

__all__ = ["rows_BP", "tokenizer"]
