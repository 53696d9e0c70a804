"""What `model.fit` is given: loss, metrics, schedules, callbacks; and the trainer of a recipe."""
