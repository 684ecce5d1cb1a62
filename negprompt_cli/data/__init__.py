"""Files in, features and artifacts out: data sets, images, the feature cache, prompt artifacts, configuration."""
