"""Model families, one folder each. A family imports `core` and never another family."""

if __name__ != "gatesweep.trainables":  # a module imported under two names would define each of its classes twice
    raise ImportError("trainables is gatesweep.trainables")
