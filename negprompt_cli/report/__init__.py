"""Pictures and the HTML page of a report: arrays and plain values in, bytes and text out; knows no runs and no models."""
