"""Writes the demo's SmolLM2-135M-Instruct as a folder that vLLM and mlx-lm load: `python smollm2.py FOLDER`."""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from lzpenalty.commands.models import load_model


def write(folder: Path) -> None:
    model, tokenizer = load_model()
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str))
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})  # the output shares the input's weights
    tokenizer.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
