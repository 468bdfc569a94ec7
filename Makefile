# Two commands do everything on a fresh machine: `make quickstart` and `make test`. Both set up .venv first.
# With an NVIDIA GPU: `make quickstart-gpu` and `make test-gpu`, which set up .venv-gpu.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU_VENV := .venv-gpu
GPU_BIN := $(GPU_VENV)/bin
PIP := bin/python -m pip --disable-pip-version-check install --quiet --no-deps
STAMP := $(VENV)/.installed
GPU_STAMP := $(GPU_VENV)/.installed
# threads that spin while they wait make processes that share few cores 10 times slower
export OMP_WAIT_POLICY := PASSIVE
# without byte code each of the hundreds of processes that the tests start would compile alignkit anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: memory-table family-memory setup-gpu quickstart-gpu test-gpu lock-cpu lock-gpu mutate fuzz licences trust-table data-docs models-table export-table evals-table quickstart test test-slow test-release smoke check format lock counts clean setup glossary bench algorithms-table environments-table agents-table step-labels-table reward-models-table over-optimisation reallocation weight-delta
.PHONY: peers schema docs notebooks first-hour
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## create .venv and install the pinned packages (done by every target that needs it)

setup-gpu: $(GPU_STAMP) ## the same for NVIDIA GPUs, in .venv-gpu: vLLM and its own torch (about 10 GB)

$(STAMP): requirements-cpu.txt pyproject.toml
	$(call install,$(VENV),requirements-cpu.txt,1.5)

$(GPU_STAMP): requirements-gpu.txt pyproject.toml
	@$(PYTHON) -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' || { echo "make: $(PYTHON) has no Python.h; install python3-dev (Triton compiles with it)" >&2; exit 2; }
	$(call install,$(GPU_VENV),requirements-gpu.txt,10)

# Every step can be interrupted and repeated: pip keeps what it has installed, and the stamp is written last.
# $(1) the environment's folder, $(2) its pins, $(3) their size in GB
define install
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or newer, or set PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; set PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; install python3-venv" >&2; exit 2; }
	@command -v $(CXX) >/dev/null || { echo "make: no C++ compiler ($(CXX)); install g++ (DeepSpeed, vLLM and Triton compile small kernels)" >&2; exit 2; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@echo "installing the pinned packages into $(1) (about $(3) GB once)"
	@grep -vE '^(#|deepspeed==)' $(2) > $(1)/without-deepspeed.txt
	$(1)/$(PIP) -r $(1)/without-deepspeed.txt
	@# deepspeed's own build looks at the installed torch
	$(1)/$(PIP) --no-build-isolation $$(grep '^deepspeed==' $(2))
	$(1)/$(PIP) --no-build-isolation -e .
	@$(1)/bin/python -c 'import transformers, vllm, deepspeed' >/dev/null 2>&1 || { echo "make: the installed packages do not import; run: $(1)/bin/python -c 'import transformers, vllm, deepspeed'" >&2; exit 2; }
	@touch $(1)/.installed
endef

quickstart: $(STAMP) ## train SmolLM2-135M on one-digit addition and print before and after
	$(BIN)/alignkit train recipes/quickstart.yaml run=runs/quickstart $$(test -d runs/quickstart/checkpoints && echo --resume)
	$(BIN)/alignkit report runs/quickstart

quickstart-gpu: $(GPU_STAMP) ## look over the machine, then the same on a GPU
	$(GPU_BIN)/alignkit doctor
	$(GPU_BIN)/alignkit train recipes/quickstart.yaml run=runs/quickstart-gpu $$(test -d runs/quickstart-gpu/checkpoints && echo --resume)
	$(GPU_BIN)/alignkit report runs/quickstart-gpu

test-gpu: $(GPU_STAMP) ## what only a card can say, in at most 8 minutes: runs/gpu.json and runs/gpu.md (docs/gpu.md)
	$(GPU_BIN)/python -m benchmarks.gpu --out runs/gpu

test: $(STAMP) ## all checks and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check alignkit
	$(BIN)/lint-imports
	$(BIN)/python .ci/counts.py
	$(BIN)/python .ci/pins.py
	$(BIN)/python .ci/pins.py requirements-gpu.txt
	$(BIN)/python .ci/requires.py
	@# three workers on two cores: a fifth of the time tests wait for others, for servers to end or deadlines to pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

test-slow: $(STAMP) ## what `make test` leaves out (tests/ci.toml), and tests that take minutes, of many of a kind some: kill -9 and resume, vLLM, SmolLM2, two processes, the sandbox
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "(slow or ci) and not release" --timeout 1800 -n 2 --dist loadscope --no-loadscope-reorder

test-release: $(STAMP) ## the slow tests that CI leaves out: every algorithm, family and engine where CI has some (tests/release.toml)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m release --timeout 1800 -n 2 --dist loadscope --no-loadscope-reorder

peers: $(STAMP) ## OpenEnv and verifiers in environments of their own, and the tests that train on them (not in CI: 1 GB)
	test -x .venv-openenv/bin/python || $(PYTHON) -m venv .venv-openenv
	.venv-openenv/bin/python -m pip --disable-pip-version-check install --quiet openenv==0.10.0
	test -x .venv-verifiers/bin/python || $(PYTHON) -m venv .venv-verifiers
	.venv-verifiers/bin/python -m pip --disable-pip-version-check install --quiet verifiers==0.4.0 uv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/contracts/test_agent_peers.py

fuzz: $(STAMP) ## every property again with new random examples, 2,000 each (20 minutes); `make test` repeats the same ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile exploring -n 2

smoke: $(STAMP) ## the quick smoke recipes, checked against recipes/smoke/promises.toml (.ci/smoke.py --all: every one)
	$(BIN)/python .ci/smoke.py

check: $(STAMP) ## formatting, lint, types and layers only
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/ty check alignkit && $(BIN)/lint-imports

format: $(STAMP) ## rewrite the code in the house format
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: lock-cpu lock-gpu ## resolve requirements-cpu.txt and requirements-gpu.txt anew

lock-cpu lock-gpu: lock-%: $(STAMP)
	$(BIN)/python .ci/lock.py $*

data-docs: $(STAMP) ## write the layouts of rows into docs/data.md the chat templates of families into docs/templates.md, the recipes of models into docs/models.md
	$(BIN)/python .ci/data_docs.py docs/data.md
	$(BIN)/python .ci/families_docs.py

models-table: $(STAMP) ## every family of models as a tiny one: packed or plain, LoRA, tied, reloaded; into docs/models.md (a minute; VLLM=--vllm tries that, too)
	$(BIN)/python .ci/models_table.py $(VLLM)

export-table: $(STAMP) ## families as GGUF, as tiny ones: what each number format costs, into docs/export.md (a minute)
	$(BIN)/python .ci/export_table.py

memory-table: $(STAMP) ## what the recipes for a GPU need, counted without one, written to docs/memory.md
	$(BIN)/python .ci/memory_table.py

family-memory: $(STAMP) ## what the recipes of known models need, counted into their headers (20 min of a core; METHODS=sft: of these alone)
	$(BIN)/python .ci/family_memory.py $(METHODS)

licences: $(STAMP) ## the licences of the installed packages, written to docs/licences.md
	$(BIN)/python .ci/licences.py docs/licences.md

trust-table: $(STAMP) ## the tests behind every promise of reliability and security, slow ones too, counted into docs/trust.md
	$(BIN)/python .ci/trust_table.py docs/trust.md

docs: $(STAMP) ## build the documentation site into build/site, strictly, with llms.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(STAMP) ## write docs/notebooks from the pages on jobs
	$(BIN)/python .ci/notebooks.py

first-hour: $(STAMP) ## three models from an empty folder with the wheel, to GGUF and talked to, timed in docs/first-hour.md
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.first_hour

schema: $(STAMP) ## write recipes/recipe.schema.json from the code, and the line of each recipe that leads to it
	$(BIN)/python .ci/schema.py

glossary: $(STAMP) ## write docs/glossary.md from the code
	$(BIN)/python -m alignkit.report.glossary docs/glossary.md

algorithms-table: $(STAMP) ## every algorithm on the same task over 3 seeds, written to docs/algorithms.md (an hour of two cores)
	$(BIN)/python -m benchmarks.algorithms

environments-table: $(STAMP) ## write the table of environments into docs/agents.md from the code
	$(BIN)/python .ci/environments_docs.py docs/agents.md

agents-table: $(STAMP) ## every method for agents on both environments over 3 seeds, written to docs/agents.md (about 3 h of one core)
	$(BIN)/python -m benchmarks.agents

step-labels-table: $(STAMP) ## labels of steps by rolling out against the truth, written to docs/rewards.md (3 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.step_labels

bench: $(STAMP) ## the benchmarks, against TRL; on an idle machine (see benchmarks/README.md)
	$(BIN)/python -m benchmarks.all

over-optimisation: $(STAMP) ## policies on learned rewards, one model against four, into docs/rewards.md (15 min of one core)
	$(BIN)/python -m benchmarks.over_optimisation

reallocation: $(STAMP) ## weights from ZeRO ranks to engine workers, by the plan and by gathering, into docs/scaling.md (minutes; 4 GB)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reallocation

weight-delta: $(STAMP) ## bytes of lossless deltas after real AdamW steps, into docs/scaling.md (2 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.weight_delta

reward-models-table: $(STAMP) ## reward models on real data, into docs/rewards.md (20 min of one core; ALIGNKIT_DATA)
	$(BIN)/python -m benchmarks.reward_models

evals-table: $(STAMP) ## SmolLM2-135M on the quick suite, all of GSM8K and XSTest, into docs/evals.md (20 min; ALIGNKIT_DATA)
	$(BIN)/alignkit eval smollm2-135m-instruct --suite quick --out runs/eval/smollm2-135m-instruct
	$(BIN)/alignkit eval smollm2-135m-instruct --task math/gsm8k-chat --task safety/xstest --out runs/eval/smollm2-135m-instruct
	$(BIN)/python .ci/evals_table.py runs/eval/smollm2-135m-instruct docs/evals.md

mutate: $(STAMP) ## change the maths one place at a time, and count in docs/testing.md what no test notices (20 min of one core)
	OMP_NUM_THREADS=1 $(BIN)/python .ci/mutate.py

counts: $(STAMP) ## lines of the reading path, checked against the promised limits
	$(BIN)/python .ci/counts.py

clean: ## remove what can be made again
	rm -rf $(VENV) $(GPU_VENV) runs .pytest_cache .ruff_cache .hypothesis
