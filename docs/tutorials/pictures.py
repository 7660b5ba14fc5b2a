"""The code of the tutorial "Classify images" (pictures.md), in the order of the page."""

# --- train
import normfold

run = normfold.train("runs/digits", arch="convnet", data="digits", epochs=8, seed=0)
print(run)

# --- audit
audit = normfold.audit("runs/digits")
print(audit)

# --- export
exported = normfold.export("runs/digits", "model_repository", name="digits")
print(exported)

# --- statistics
statistics = exported.manifest.card.running_statistics
for layer in statistics.layers:
    print(f"{layer.layer:16} mean moved by {layer.mean_shift:.3f} std")

# --- predict
from sklearn.datasets import load_digits

digits = load_digits()
with normfold.load_repository("model_repository") as repository:
    predictions = repository["digits"].predict(digits.images[:10, None])
print([prediction.label for prediction in predictions], digits.target[:10])

# --- serve
import json
import subprocess
import sys
import time

command = [sys.executable, "-m", "normfold", "serve", "--repository", "model_repository", "--port", "0", "--json"]
service = subprocess.Popen(command, stdout=subprocess.PIPE)
url = json.loads(service.stdout.readline())["url"]
client = normfold.Client(url)
while not client.ready():
    time.sleep(0.1)
print(url)

# --- classify
image = (digits.images[0] * 255 / 16).astype("uint8")
for candidate in client.classify("digits", image, top=3):
    print(f"{candidate.label}  {candidate.probability:.2f}")

# --- compare
served = client.predict("digits", digits.images[:10, None])
assert [one.label for one in served] == [one.label for one in predictions]

# --- stop
client.close()
service.terminate()
service.wait()
