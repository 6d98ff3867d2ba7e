"""Semantic ids out of a language model: the trie of legal ids and exact, constrained beam search over it."""
