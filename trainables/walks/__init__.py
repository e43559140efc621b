"""Walks on a directed block graph with rules that reach ahead, learned by a small transformer."""
