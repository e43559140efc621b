"""Helpers of the tests: small trainables and data, pretended sweeps, servers, processes, and faults at random."""
