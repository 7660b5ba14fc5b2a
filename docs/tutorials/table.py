"""The code of the tutorial "Predict from tabular data" (table.md), in the order of the page."""

# --- data
from pathlib import Path

from sklearn.datasets import load_wine

wine = load_wine()
columns = [name.replace("/", " ") for name in wine.feature_names]
lines = [",".join([*columns, "cultivar"])]
for row, target in zip(wine.data, wine.target, strict=True):
    lines.append(",".join([*map(str, row), wine.target_names[target]]))
Path("wine.csv").write_text("\n".join(lines) + "\n")

# --- train
import normfold

run = normfold.train(
    "runs/wine", arch="mlp", data="csv:wine.csv", label_column="cultivar", epochs=60, batch_size=32, seed=0
)
print(run)

# --- export
exported = normfold.export("runs/wine", "model_repository", name="wine")
print(exported)

# --- card
card = exported.manifest.card
print(card.labels)
print(card.preprocessing.columns[:3], card.preprocessing.mean[:3])

# --- serve
import json
import subprocess
import sys
import time

command = [sys.executable, "-m", "normfold", "serve", "--repository", "model_repository", "--port", "0", "--json"]
service = subprocess.Popen(command, stdout=subprocess.PIPE)
client = normfold.Client(json.loads(service.stdout.readline())["url"])
while not client.ready():
    time.sleep(0.1)

# --- predict
rows = [dict(zip(columns, map(float, row), strict=True)) for row in wine.data[::60]]
for prediction in client.predict("wine", rows):
    print(prediction)

# --- wrong
try:
    client.predict("wine", [{"alcohol": 13.2}])
except normfold.errors.ResponseError as error:
    print(error.status, error)

# --- stop
client.close()
service.terminate()
service.wait()
