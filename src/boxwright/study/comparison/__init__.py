"""`boxwright compare`: which recipe is better on a data set, and the report of a single run.

`compare` puts everything together. What it stands on:

- `contestants`, `budget`: the recipes with everything but the criterion held fixed, and how many epochs fit a budget.
- `runs`, `executors`, `clusters`: one training, on this machine or on a cluster.
- `analysis`, `matching`, `error_kinds`: what one run's detections say.
- `summary`, `statistics`, `disagreement`: all runs together, and whether a difference is more than noise.
- `report_files`, `page`, `page_tables`, `page_images`, `markdown`, `wording`, `commands`: the report.
"""
