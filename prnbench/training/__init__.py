"""Training: one LightningModule around a model's objective, its command, weight import and export."""
