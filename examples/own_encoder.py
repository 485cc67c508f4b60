"""An encoder of your own is a folder, or a name on the model hub: here the lower half of another one.

    python examples/own_encoder.py [ENCODER]

Anything that transformers loads in the shape of BERT, RoBERTa or DistilBERT will do.
"""

import sys
import tempfile
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from nlpcl import RunSpec, run
from nlpcl.config.encoders import encoder_path

source = encoder_path(sys.argv[1] if len(sys.argv) > 1 else "minilm")
with tempfile.TemporaryDirectory() as temporary:
    folder = str(Path(temporary) / "lower-half")
    encoder = AutoModel.from_pretrained(source)
    half = len(encoder.encoder.layer) // 2
    encoder.encoder.layer = encoder.encoder.layer[:half]
    encoder.config.num_hidden_layers = half
    encoder.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    # The same on the command line: nlpcl run --model FOLDER --tasks 2 ...
    spec = RunSpec(
        strategy="ncl",
        model=folder,
        backbone_options={"adapter_size": 64, "pooling": "mean"},  # the presets of an unknown encoder are those of BERT
        learning_rate=5e-3,
        tasks=2,
        train_size=160,
        epochs=7,
    )
    record = run(spec, out=None)
print(f"{half} layers, {record.sizes['parameters']:,} parameters; its weights: {record.data['encoder']}")
print(f"accuracy {record.derived()['average_accuracy']:.1%}")
