"""Settings that take one of a few words: said once, for the configuration, the code and the command line."""

from typing import Literal

OnError = Literal["stop", "skip"]
"""What a broken image does to a job."""
Decoder = Literal["pil", "torchcodec"]
"""What decodes JPEGs."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Format of the image encoder's arithmetic."""
KeptEpoch = Literal["last", "best"]
"""Which epoch of a training is kept."""
Runtime = Literal["torch", "onnx"]
"""What runs the image encoder."""
