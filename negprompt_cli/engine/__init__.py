"""The method itself, on tensors alone: no files, no console, no knowledge of data sets or commands."""
