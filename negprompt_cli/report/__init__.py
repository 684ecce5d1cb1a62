"""Pages and their pictures, made from arrays, rows and plain values. This layer knows no runs and no models."""
