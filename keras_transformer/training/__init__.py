"""What `model.fit` is given: loss, metrics, schedules, callbacks; and the trainer of a recipe."""

from keras_transformer import backend

backend.start()
