"""`boxwright inspect`: what assigners do with the objects of a data set, and which annotations look wrong.

`report` puts everything together. What it stands on:

- `inputs`, `network`, `assigner_choices`: the objects at the network's input, what a run's network predicts there, and
  the assigners to try.
- `tally`, `object_groups`, `prior_fit`: what every assigner does with every object, summed by kinds of objects, and
  whether strides and anchors fit.
- `image_report`, `gallery`: single images, by `explain`, `assigner_rules`, `loss_shares` and `heat_maps`.
- `evidence`, `relabel`: annotations to look at again, by `sides`, `suspects`, `unlabelled` and `crops`.
- `page`, `relabel_page`: the HTML.
"""
