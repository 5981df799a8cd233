"""The figures of the paper and of this project, from the tables of a run alone."""
