"""The model families: one folder each; they know `core` and never each other."""
