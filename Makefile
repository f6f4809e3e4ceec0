# The commands of this project. `make` lists them. Needs Python 3.11 or newer, make and pip; nothing else.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
VLLM := .venv-vllm
LUCENE := .venv-lucene
INTEGRATIONS := .venv-integrations
CLIENTS := .venv-clients
LANGCHAIN_COHERE := .venv-langchain-cohere
API := .venv-api
LOCK := .venv-lock
LOWEST := .venv-lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
COMPILE := $(LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url

# The share of all attacks that `make test-attacks` tries.
ATTACKS ?= 0.1
# The extra, the tests and their mark of `make test-lowest`.
EXTRA ?= dev
TESTS ?= tests
MARKED ?=
# Options of Python before `-m pytest`: .ci/run measures coverage with MEASURE="-m coverage run".
MEASURE ?=
# One worker of pytest-xdist per core. `make test WORKERS=0` runs everything in one process, for a debugger.
WORKERS ?= auto
# More options of pytest for `make test` and `make test-all`.
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo demo-all leaderboard test test-all test-vllm test-lucene test-ray test-integrations test-clients test-api test-browser test-attacks test-benchmarks test-lowest environments lock check lint types sizes docs fix clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.hf ## rerank a sample of questions about Python's library with a small language model
	$(BIN)/rerank demo

demo-all: $(VENV)/.hf ## the same with all questions
	$(BIN)/rerank demo --all

leaderboard: $(VENV)/.base ## build the boards of TREC Deep Learning 2019 and 2021 into build/leaderboard, from recorded scores
	$(BIN)/rerank leaderboard build --board eval/leaderboard/dl19.toml --board eval/leaderboard/dl21.toml \
		--title "TREC Deep Learning, passages" --out build/leaderboard

test: $(VENV)/.dev ## the default test suite: no network, no model, no data from elsewhere
	$(BIN)/python $(MEASURE) -m pytest -q -n $(WORKERS) --dist worksteal $(OPTIONS)

test-all: $(VENV)/.dev ## the tests marked full, shared and model too; needs the extras, the models and ../shared
	$(BIN)/python $(MEASURE) -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow and not network and not browser and not lucene and not attack and not integrations and not clients and not ray" $(OPTIONS)

test-vllm: $(VLLM)/.vllm ## the tests that need vLLM, on a CPU, in an environment of their own (gigabytes)
	$(VLLM)/bin/rerank models pull smollm2-135m
	$(VLLM)/bin/python $(MEASURE) -m pytest -q -m "not slow and not network" tests/vllm

test-lucene: $(LUCENE)/.lucene ## the tests that need Pyserini, in an environment of their own, and a JDK from 21 up
	$(LUCENE)/bin/python $(MEASURE) -m pytest -q -m lucene tests/retrieval
	$(LUCENE)/bin/python -m pytest -q tests/test_dependencies.py -k "licences or pinned"

test-ray: $(VENV)/.dev $(VENV)/.ray ## runs with several workers of Ray, also under faults
	$(BIN)/python $(MEASURE) -m pytest -q -m ray $$(grep -rl --include='test_*.py' 'mark\.ray' tests)

test-integrations: $(INTEGRATIONS)/.integrations ## the tests of the components for RAG frameworks, in an environment of their own
	$(INTEGRATIONS)/bin/rerank models pull smollm2-135m
	$(INTEGRATIONS)/bin/rerank models pull all-minilm-l6-v2
	$(INTEGRATIONS)/bin/python $(MEASURE) -m pytest -q -m integrations tests/integrations tests/examples tests/test_migration.py
	$(INTEGRATIONS)/bin/python -m pytest -q tests/test_dependencies.py -k "licences or pinned"

# Warnings of the clients are theirs.
test-clients: $(CLIENTS)/.clients $(LANGCHAIN_COHERE)/.clients ## clients of rerank APIs against `rerank serve`, in two environments of their own
	$(CLIENTS)/bin/python $(MEASURE) -m pytest -q -W ignore -m clients tests/clients --ignore tests/clients/test_langchain_cohere.py
	$(LANGCHAIN_COHERE)/bin/python $(MEASURE) -m pytest -q -W ignore -m clients tests/clients/test_langchain_cohere.py

test-browser: $(VENV)/.dev $(VENV)/.browser $(VENV)/.serve ## the tests of pages; needs Chromium on the PATH
	$(BIN)/python $(MEASURE) -m pytest -q -m browser $$(grep -rl --include='test_*.py' 'mark\.browser' tests)

test-api: $(API)/.api ## schemathesis against the OpenAPI description of the server, in an environment of its own
	$(API)/bin/python $(MEASURE) -m pytest -q tests/serving/test_openapi.py

test-benchmarks: $(VENV)/.dev $(VENV)/.hf $(VENV)/.dense $(VENV)/.train $(VENV)/.serve $(VENV)/.ray ## every script of benchmarks/, training/ and eval/ once, on a few texts
	$(BIN)/rerank models pull all-minilm-l6-v2
	$(BIN)/python benchmarks/smoke.py

test-attacks: $(VENV)/.hf $(VENV)/.dev ## hostile servers, files, texts and signals; ATTACKS=1 tries all
	ATTACKS=$(ATTACKS) $(BIN)/python $(MEASURE) -m pytest -q -n $(WORKERS) --dist worksteal -m attack tests/attacks

# Old versions warn beside new ones. Older test clients of Starlette need httpx.
test-lowest: $(LOCK)/.uv ## TESTS with the lowest versions that pyproject.toml allows of what the base and EXTRA name
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOCK)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[$(EXTRA)]'
	$(LOCK)/bin/uv pip install --quiet --python $(LOWEST)/bin/python \
		httpx hypothesis pytest pytest-socket pytest-xdist statsmodels
	$(LOWEST)/bin/python -m pytest -q -W default $(if $(MARKED),-m $(MARKED)) $(TESTS)

# Versions and hashes in a lock stay while they fit; a lock that was deleted is made anew with the newest versions.
lock: $(LOCK)/.uv ## write requirements.lock and locks/: versions of all packages with the hashes of their files
	$(COMPILE) --no-deps constraints.txt --output-file requirements.lock
	$(COMPILE) -c constraints.txt --extra langchain --extra llama-index --extra haystack --extra pyterrier --extra dspy \
		--extra dense --extra qdrant --excludes locks/excluded.txt \
		pyproject.toml tests/integrations/requirements.txt --output-file locks/integrations.lock
	$(COMPILE) -c constraints.txt --extra lucene --extra dev --excludes locks/excluded.txt \
		pyproject.toml --output-file locks/lucene.lock
	$(COMPILE) -c tests/vllm/requirements.txt --extra vllm pyproject.toml --output-file locks/vllm.lock

# One after the other: each builds the package in the checkout.
environments: $(VENV)/.ray $(VENV)/.browser $(VENV)/.serve $(VENV)/.docs $(VLLM)/.vllm $(API)/.api $(LUCENE)/.lucene $(INTEGRATIONS)/.integrations $(CLIENTS)/.clients $(LANGCHAIN_COHERE)/.clients ## set up what the targets test-* need (gigabytes)

check: lint types sizes ## everything that is checked without running it

lint: $(VENV)/.dev ## style
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 rerank training examples  # text files without an encoding
	$(BIN)/ruff format --check .

types: $(VENV)/.hf $(VENV)/.mcp $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

sizes: $(BIN)/python ## the longest files and functions, as places to look at
	$(BIN)/python benchmarks/sizes.py

docs: $(VENV)/.docs ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fix: $(VENV)/.dev ## repair style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built here, the environment too
	rm -rf $(VENV) $(VLLM) $(LUCENE) $(INTEGRATIONS) $(CLIENTS) $(LANGCHAIN_COHERE) $(API) $(LOCK) $(LOWEST) build dist site .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and not on the PATH; set PYTHON=/path/to/python" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

# One stamp an extra, so that setting up again does nothing until the requirements change.
$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.%: $(VENV)/.base
	$(PIP) -e '.[$*]'
	@touch $@

$(LOCK)/.uv:
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

# Pyserini brings much that nothing else needs; the last command adds torch, which the lock leaves out.
$(LUCENE)/.lucene: locks/lucene.lock pyproject.toml constraints.txt $(LOCK)/.uv
	$(PYTHON) -m venv $(LUCENE)
	$(LOCK)/bin/uv pip install --quiet --python $(LUCENE)/bin/python --no-deps --require-hashes -r locks/lucene.lock
	$(LUCENE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lucene,dev]'
	@touch $@

# The frameworks bring much that nothing else needs; the last command adds torch, which the lock leaves out.
$(INTEGRATIONS)/.integrations: locks/integrations.lock pyproject.toml constraints.txt $(LOCK)/.uv
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(LOCK)/bin/uv pip install --quiet --python $(INTEGRATIONS)/bin/python --no-deps --require-hashes -r locks/integrations.lock
	$(INTEGRATIONS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dense,qdrant]'
	@touch $@

# pip needs minutes to find versions of all clients that fit each other, uv seconds.
$(CLIENTS)/.clients: tests/clients/requirements.txt
$(LANGCHAIN_COHERE)/.clients: tests/clients/requirements-langchain-cohere.txt
$(CLIENTS)/.clients $(LANGCHAIN_COHERE)/.clients: pyproject.toml | $(LOCK)/.uv
	$(PYTHON) -m venv $(@D)
	$(LOCK)/bin/uv pip install --quiet --python $(@D)/bin/python -r $(filter %.txt,$^) -e '.[serve]'
	@touch $@

# Schemathesis brings much that nothing else needs.
$(API)/.api: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(API)
	$(API)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,dev]' 'schemathesis>=4.32,<5'
	@touch $@

# vLLM pins its own torch and transformers. The build for processors has the versions of the lock, but not its files. Two
# packages that it brings do not load beside the CPU build of that torch.
$(VLLM)/.vllm: tests/vllm/requirements.txt locks/vllm.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and not on the PATH; set PYTHON=/path/to/python" >&2; exit 3; }
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	sed '/--hash=/d; s/ \\$$//' locks/vllm.lock >$(VLLM)/versions.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VLLM)/versions.txt \
		-r tests/vllm/requirements.txt -e .
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@
