"""Born machines: class and density of a point, from the square of an amplitude that a chain of tensors computes."""
