"""Copies of records and checkpoints in storage, for machines that share no disk. Imports only from `records` and below."""
