"""The code of the tutorial "Connect a Triton client to Normfold" (triton_client.md), in the order of the page."""

# --- repository
import normfold

normfold.train("runs/digits", arch="mlp", data="digits", epochs=5, seed=0)
exported = normfold.export("runs/digits", "model_repository", name="digits")
print(exported.manifest.inputs, exported.manifest.outputs)

# --- serve
import json
import subprocess
import sys

command = [sys.executable, "-m", "normfold", "serve", "--repository", "model_repository", "--port", "0", "--json"]
service = subprocess.Popen(command, stdout=subprocess.PIPE)
address = json.loads(service.stdout.readline())["url"].removeprefix("http://")

# --- client
import time

import tritonclient.http as triton

client = triton.InferenceServerClient(address)
while not client.is_server_ready():
    time.sleep(0.1)
print(client.get_server_metadata()["extensions"])
print(client.get_model_metadata("digits"))

# --- infer
import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
preprocessing = exported.manifest.card.preprocessing
tensor = preprocessing.standardise(digits.images[:4, None].astype(np.float32))

model_input = triton.InferInput("input", list(tensor.shape), "FP32")
model_input.set_data_from_numpy(tensor)
result = client.infer("digits", [model_input])
logits = result.as_numpy(exported.manifest.outputs[0].name)
print(logits.argmax(1), digits.target[:4])

# --- statistics
statistics = client.get_inference_statistics("digits")["model_stats"][0]
print(statistics["inference_count"], statistics["execution_count"])

# --- stop
client.close()
service.terminate()
service.wait()
