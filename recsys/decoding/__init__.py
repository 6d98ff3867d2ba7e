"""Constrained decoding of semantic ids: beam search over their trie."""
