"""Capacity density (the Densing Law): the size at which a reference model is as good as a model,
over the model's own size. Does not run benchmark tasks; see `metrics.tasks`."""
