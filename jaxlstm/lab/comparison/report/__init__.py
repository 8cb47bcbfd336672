"""The report of a comparison, from the files of its directory alone."""
