"""Generative recommendation: interactions and a catalogue in, recommendations a language model writes out."""
