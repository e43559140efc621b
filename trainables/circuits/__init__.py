"""Circuits: a variational autoencoder of RLC two-ports, judged by the physics of what it decodes."""
