"""Published methods, written afresh from their papers and run as plainly as their authors' own code runs them.

Each module says what it follows. A model here is anything that takes (batch, *dims) to (batch, classes); an input x has
no batch axis; noise comes from an explicit generator on the input's device and is never clipped. `evaluations` counts
rows that the model classified, those whose answer nobody used among them.
"""
