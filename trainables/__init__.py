"""The model families: one folder each; they know `core` and never each other."""

if __name__ != "gatesweep.trainables":  # one name a file: a class imported twice is two classes
    raise ImportError("trainables is gatesweep.trainables")
