"""Autoencoders of token sets, and a small MLP on a linear target.

A sample is a set of at most T tokens: the objects of a collision event, or the rows of a digit image. A token has F
features and an id; id 0 marks padding. In shapes, B is the number of samples in a batch and D the size of a latent.
"""
