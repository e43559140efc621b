"""Autoencoders of sets of tokens: collision events of particle physics, and digits by their rows."""
