"""Pages and their pictures: arrays, rows and plain values in, bytes and text out; knows no runs and no models."""
