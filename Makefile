# Every target installs its dependencies into .venv. On Linux, TORCH=cpu installs PyTorch's CPU build (about 200 MB)
# instead of PyPI's default CUDA build (gigabytes): make demo TORCH=cpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
DOCS_INSTALLED := $(VENV)/.docs-installed
# torchvision and PyTorch are released together, and the newest torchvision needs a newer PyTorch than the extra train.
ZOO := .venv-zoo
ZOO_INSTALLED := $(ZOO)/.installed
# KServe's client needs older packages than Normfold's development environment has.
KSERVE := .venv-kserve
KSERVE_INSTALLED := $(KSERVE)/.installed
MLSERVER := .venv-mlserver
MLSERVER_INSTALLED := $(MLSERVER)/.installed
PIP_OPTIONS := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)

TORCH_RANGE := $(shell sed -n 's/.*"\(torch>=[^"]*\)".*/\1/p' pyproject.toml)

# Another container engine: make image CONTAINER=podman. BUILD_ARGS are passed to its build command.
CONTAINER ?= docker
COMPOSE ?= docker compose
ORT ?= cpu
IMAGE ?= normfold$(if $(filter gpu,$(ORT)),:gpu)
PROFILES ?= --profile monitoring

# A file's tests run in one process, so that they share its fixtures; the marker alone keeps the other process waiting.
TWO_PROCESSES := --numprocesses 2 --dist loadfile

.PHONY: help system-packages setup demo docs grpc-stubs swagger-ui notebooks test test-quick test-backend fuzz fuzz-wire lint format study release-check lock image up down test-containers test-kserve test-mlserver serve bench-adapt bench-export bench-fold bench-fold-exactness bench-fold-growth bench-fold-large bench-fold-zoo bench-serve bench-drift bench-gpu bench-node bench-precision check-gpu clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

system-packages:  ## Install through apt the programs that tests and benchmarks run (Debian, Ubuntu).
	$(PYTHON) -m scripts.system_packages

setup: $(INSTALLED)  ## Create .venv with all development dependencies.

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 3; }
	@echo "Installing into $(VENV); this takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(if $(PIP_OPTIONS),$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) '$(TORCH_RANGE)')
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,train,dev]'
	@touch $@

demo: $(INSTALLED)  ## Train on digits, export with the fold, serve, send requests; writes build/demo.json.
	$(BIN)/python -m scripts.demo

test: $(INSTALLED)  ## Run the tests in two processes; PYTEST_OPTIONS are passed to pytest.
	$(BIN)/python -m pytest $(TWO_PROCESSES) $(PYTEST_OPTIONS)

test-quick: $(INSTALLED)  ## Run the tests that take less than a fifth of a second each, in two processes.
	HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest -m 'not slow' --ignore-glob 'tests/service/openapi/*conformance.py' $(TWO_PROCESSES) $(PYTEST_OPTIONS)

test-backend: $(INSTALLED)  ## Fold every model of onnx's own backend tests; repair and unfold all networks of the tests, and fold them again.
	BACKEND_CASES=all $(BIN)/python -m pytest tests/export/backend tests/export/test_round_trips.py --capture=no $(PYTEST_OPTIONS)

lint: $(INSTALLED)  ## Check format, style and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)  ## Format the code and sort imports.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(INSTALLED)  ## Fold a hundred thousand random graphs (an hour).
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/export/test_fuzz.py

fuzz-wire: $(INSTALLED)  ## Send malformed bodies to the decoder for ten minutes.
	$(BIN)/python -m benchmarks.fuzz_requests $(BENCH_OPTIONS)

study: $(INSTALLED)  ## Measure the claims about batch normalisation on digits; writes build/study/index.html (minutes).
	$(BIN)/normfold study --out build/study

release-check: $(INSTALLED)  ## Build the release files into dist/ and check them; uploads nothing.
	$(BIN)/python -m scripts.release_check

docs: $(DOCS_INSTALLED)  ## Build the documentation into build/docs; a warning, a broken link or an undocumented name fails.
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --nitpicky --doctree-dir build/docs-cache docs build/docs
	@echo "The documentation is in build/docs/index.html"

notebooks: $(INSTALLED)  ## Write docs/tutorials/*.ipynb from the tutorials' pages and scripts.
	$(BIN)/python -m scripts.docs_notebooks

grpc-stubs: $(INSTALLED)  ## Make the stubs of service/grpc/protocol/inference.proto and export/triton/model_config.proto.
	$(BIN)/python -m scripts.grpc_stubs

swagger-ui: $(INSTALLED)  ## Replace the files of the page at /docs by those of swagger-ui-dist VERSION (needs npm).
	$(BIN)/python -m scripts.swagger_ui $(VERSION)

lock: $(INSTALLED)  ## Write requirements/, the lock files of the images, with hashes; LOCK_OPTIONS=--upgrade updates them.
	$(BIN)/python -m scripts.lock $(LOCK_OPTIONS)

image:  ## Build the image of the service; ORT=gpu for NVIDIA GPUs, IMAGE=registry/normfold:0.1.0 for its name.
	$(CONTAINER) build $(BUILD_ARGS) --build-arg ORT=$(ORT) --target serve --tag $(IMAGE) .

up:  ## Start service, Prometheus and Grafana in containers; train on digits first if there is no model.
	$(COMPOSE) build service
	@found=$$($(COMPOSE) run --rm --no-deps -T --entrypoint sh service -c \
		'ls /models/*/*/manifest.json >/dev/null 2>&1 && echo models || echo none' | tr -d '\r' | tail -n 1); \
	case "$$found" in \
		models) ;; \
		none) $(COMPOSE) --profile train build train && $(COMPOSE) --profile train run --rm -T train ;; \
		*) echo "The volume of models could not be read." >&2; exit 3 ;; \
	esac
	$(COMPOSE) $(PROFILES) up --detach
	@for second in $$(seq 60); do \
		$(COMPOSE) exec -T service python -m normfold.service.healthcheck >/dev/null 2>&1 && exit 0; sleep 1; \
	done; $(COMPOSE) logs --tail 20 service; echo "The service is not ready; its log is above." >&2; exit 1
	@echo "The service is ready: http://localhost:$${PORT:-8000}/docs"
	$(if $(PROFILES),@echo "Prometheus: http://localhost:$${PROMETHEUS_PORT:-9090}  Grafana: http://localhost:$${GRAFANA_PORT:-3000}")

down:  ## Stop and remove the containers; models and metrics stay in their volumes.
	$(COMPOSE) --profile monitoring --profile train --profile tools --profile adapt down

test-containers: export CONTAINER := $(CONTAINER)
test-containers: export COMPOSE := $(COMPOSE)
test-containers: export BUILD_ARGS := $(BUILD_ARGS)
test-containers: $(INSTALLED)  ## Test the images: build, train, serve, send requests, stop (minutes).
	$(BIN)/python -m pytest tests/containers --capture=no

test-kserve: $(INSTALLED) $(KSERVE_INSTALLED)  ## Test gRPC with KServe's own client, in an environment of its own.
	KSERVE_PYTHON=$(KSERVE)/bin/python $(BIN)/python -m pytest tests/kserve

test-mlserver: $(INSTALLED) $(MLSERVER_INSTALLED)  ## Test HTTP and gRPC with MLServer's types and codecs, in an environment of its own.
	MLSERVER_PYTHON=$(MLSERVER)/bin/python $(BIN)/python -m pytest tests/mlserver

serve: $(INSTALLED)  ## Serve ./model_repository on port 8000.
	$(BIN)/normfold serve

bench-adapt: $(INSTALLED)  ## Accuracy on changed inputs after adaptation, and its cost.
	$(BIN)/python -m benchmarks.drift.adapt $(BENCH_OPTIONS)

bench-export: $(INSTALLED)  ## Time and memory of folding ResNet-50, compared with onnx.load + onnx.save.
	$(BIN)/python -m benchmarks.fold.resnet50

bench-fold: $(BENCH_INSTALLED)  ## Ten published graphs: the fold, compared with the exporter's optimiser, onnxslim and onnxsim.
	$(BIN)/python -m benchmarks.fold.families $(BENCH_OPTIONS)

bench-fold-zoo: $(ZOO_INSTALLED)  ## Networks of other packages: what the fold leaves, compared with other tools (hours).
	$(ZOO)/bin/python -m benchmarks.fold.zoo $(BENCH_OPTIONS)

bench-fold-exactness: $(INSTALLED)  ## Distance to float64 of folded and unfolded networks.
	$(BIN)/python -m benchmarks.fold.exactness $(BENCH_OPTIONS)

bench-fold-growth: $(INSTALLED)  ## Time of folding 100 to 10,000 blocks.
	$(BIN)/python -m benchmarks.fold.growth $(BENCH_OPTIONS)

bench-serve: $(INSTALLED)  ## The service, compared with an echo server, a FastAPI server and a session.run loop (needs wrk).
	$(BIN)/python -m benchmarks.serve $(BENCH_OPTIONS)

bench-drift: $(INSTALLED)  ## Drifted inputs: accuracy, detection, and accuracy after adaptation.
	$(BIN)/python -m benchmarks.drift.drift $(BENCH_OPTIONS)

bench-gpu: $(INSTALLED)  ## The fold and the service on an NVIDIA GPU (needs the extra gpu).
	$(BIN)/python -m benchmarks.gpu $(BENCH_OPTIONS)

check-gpu: $(INSTALLED)  ## On a machine with an NVIDIA GPU: the tests that need it, then float16 beside torch; 9 minutes.
	$(BIN)/python -m pytest tests/service/runtime/test_cuda.py
	$(BIN)/python -m benchmarks.gpu --precision

bench-node: $(INSTALLED)  ## Bytes that are moved while a node is dispatched, for the cost model.
	$(BIN)/python -m benchmarks.fold.node_cost

bench-precision: $(BENCH_INSTALLED)  ## int8 and float16: signal to noise, accuracy, overflow of sums, time and size, with the bars.
	$(BIN)/python -m benchmarks.precision $(BENCH_OPTIONS)

bench-fold-large: $(INSTALLED)  ## Memory of folding a model of 3 GB (needs 7 GB of disk here).
	$(BIN)/python -m benchmarks.fold.large

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,train,dev,bench]'
	@touch $@

$(ZOO_INSTALLED): pyproject.toml
	@echo "Installing into $(ZOO): 7 GB, with PyTorch's CUDA build unless TORCH=cpu."
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --editable '.[cpu,zoo]'
	@touch $@

$(KSERVE_INSTALLED):
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/pip install --quiet --disable-pip-version-check 'kserve>=0.21,<1'
	@touch $@

$(MLSERVER_INSTALLED):
	$(PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/pip install --quiet --disable-pip-version-check 'mlserver>=1.7,<2'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,train,dev,docs]'
	@touch $@

clean:  ## Remove .venv, caches and build output; runs and models stay.
	rm -rf $(VENV) $(ZOO) $(KSERVE) $(MLSERVER) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
