"""Constrained decoding of semantic ids: the trie of valid ids, and beam search over it."""
