"""Score images with an exported model, `score_onnx.py MODEL.onnx IMAGE...`: numpy, Pillow and onnxruntime are enough."""

import json
import sys

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["negprompt"])
how = about["preprocessing"]
height, width = how["size"]
filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
for path in sys.argv[2:]:
    image = Image.open(path).convert("RGB")
    if how["resize_mode"] == "squash":
        image = image.resize((width, height), filters[how["interpolation"]])
    short = min(image.size)  # "shortest": scale the shorter side to the square's, then cut the centre out
    size = (width * image.width // short, height * image.height // short)
    image = image.resize(size, filters[how["interpolation"]])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = (np.asarray(image, np.float32) / 255 - np.float32(how["mean"])) / np.float32(how["std"])
    probabilities, score, is_ood = session.run(None, {"pixels": pixels.transpose(2, 0, 1)[None]})
    name = about["classes"][int(probabilities[0].argmax())]["name"]
    sys.stdout.write(f"{path}\t{name}\t{probabilities[0].max():.4f}\t{score[0]:.6g}\t{'OOD' if is_ood[0] else 'ID'}\n")
