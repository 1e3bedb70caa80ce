"""From a backup product's catalogue and its tapes to verified images in the pool."""
