"""Data on its way to a model: shards on disk, batch transforms, Lightning datamodule."""
