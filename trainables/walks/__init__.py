"""Random walks on a directed block graph with rules that act some steps ahead, learned by a small transformer."""
