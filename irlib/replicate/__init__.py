"""What takes too long for a page: `python -m irlib.replicate NAME` measures it and writes the files under irlib/results that the book reads."""
