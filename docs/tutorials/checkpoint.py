"""The code of the tutorial "Serve an existing checkpoint" (checkpoint.md), in the order of the page."""

# --- network
from pathlib import Path

Path("nets.py").write_text("""
from torch import nn


def block(channels_in, channels_out):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def small_cnn(width=16):
    return nn.Sequential(
        block(1, width), block(width, 2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)
    )
""")

# --- checkpoint
import sys

import torch
from sklearn.datasets import load_digits

sys.path.insert(0, ".")
from nets import small_cnn

digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)

torch.manual_seed(0)
network = small_cnn(width=16)
optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
for _ in range(20):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
torch.save(network.state_dict(), "checkpoint.pt")

# --- card
import json

card = {
    "preprocessing": {
        "kind": "image",
        "channels": 1,
        "height": 8,
        "width": 8,
        "value_max": 1.0,
        "mean": [0.0],
        "std": [1.0],
    },
    "labels": [str(digit) for digit in range(10)],
    "logits": ["output"],
}
Path("card.json").write_text(json.dumps(card))

# --- audit
import normfold

print(normfold.audit("nets:small_cnn", weights="checkpoint.pt", input_shape=(1, 8, 8)))

# --- export
exported = normfold.export(
    "nets:small_cnn", "model_repository", name="small", weights="checkpoint.pt", input_shape=(1, 8, 8), card="card.json"
)
print(exported)

# --- verification
for name, output in exported.verification.outputs.items():
    print(f"{name}: error {output.error:.1e}, noise {output.noise:.1e}")

# --- predict
network.eval()
with torch.inference_mode():
    expected = network(images[:100]).argmax(1)
with normfold.load_repository("model_repository") as repository:
    predictions = repository["small"].predict(images[:100].numpy())
assert [prediction.index for prediction in predictions] == expected.tolist()

# --- inspect
inspected = normfold.inspect("model_repository/small/1/unfolded.onnx", html="small.html")
print(inspected)
