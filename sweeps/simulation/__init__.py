"""Replays of recorded sweeps in virtual time; imports only from the rooms below: reports, and those under it."""
