"""Circuits: a variational autoencoder of RLC two-ports, gated on the physics of the circuits that it decodes."""
