"""Copies of records and checkpoints for machines that share no disk. Imports only from `records` and below."""
