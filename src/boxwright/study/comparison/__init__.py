"""`boxwright compare`: which recipe is better on a data set, and the report of a single run."""
