"""Score images with an exported model, `score_onnx.py MODEL.onnx IMAGE...`: numpy, Pillow and onnxruntime are enough.

The scores are those of `negprompt score` on 8-bit images of five formats. Everything else, for which that command has rules
(16 bits, floats, LAB, transparency laid over a colour, ...), is refused on stderr, and the exit status is 1.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["negprompt"])
how = about["preprocessing"]
height, width = how["size"]
if (how["pixels"]["alpha"], how["pixels"]["orientation"]) != ("drop", "ignore"):
    sys.exit(f"This example does not read images by the model's rules, {how['pixels']}: use `negprompt score`.")
if how["resize_mode"] == "longest" or height != width:
    sys.exit("This example does not resize images as the model needs them: use `negprompt score`.")
filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
refused = 0
for path in sys.argv[2:]:
    try:
        file = Image.open(path, formats=FORMATS)
        if file.mode not in MODES or ";16" in str(file.tile):  # Pillow keeps 8 of the 16 bits of a colour
            raise ValueError("it does not have 8 bits per channel: use `negprompt score`")
        image = file.convert("RGBA").convert("RGB") if file.mode == "P" else file.convert("RGB")
    except Exception as error:
        sys.stderr.write(f"{path}: {error}\n")
        refused += 1
        continue
    if how["resize_mode"] == "squash":
        image = image.resize((width, height), filters[how["interpolation"]])
    short = min(image.size)  # "shortest": scale the shorter side to the square's, then cut the centre out
    size = (width * image.width // short, height * image.height // short)
    image = image.resize(size, filters[how["interpolation"]])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    pixels = (np.asarray(image, np.float32) / 255 - np.float32(how["mean"])) / np.float32(how["std"])
    probabilities, score, is_ood, *_ = session.run(None, {"pixels": pixels.transpose(2, 0, 1)[None]})
    name = about["classes"][int(probabilities[0].argmax())]["name"]
    sys.stdout.write(f"{path}\t{name}\t{probabilities[0].max():.4f}\t{score[0]:.6g}\t{'OOD' if is_ood[0] else 'ID'}\n")
sys.exit(1 if refused else 0)
