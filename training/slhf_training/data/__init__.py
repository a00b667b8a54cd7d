"""Data: JSONL files and data sets of the hub, whatever their columns are called, as examples of one schema."""
