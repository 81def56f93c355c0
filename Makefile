# make install   virtual environment and dependencies, once (the other targets do it by themselves)
# make demo      draw scenes, train the demo model on them, report (SEED=1 for another seed)
# make photos    real photographs and clips become shards, the demo's model learns them by low-rank terms
# make lint      format, lint, types
# make check     the same, and the fast tests
# make test      the whole test suite
# make lowest    the fast tests with the oldest packages that pyproject.toml allows (an environment of its own, 3 GB to fetch)
# make format    rewrite the sources in the project's format
# make bench     the benchmarks of single parts, one table each (the demo's is benchmarks/demo_seeds.py)
# make bench-gpu what one H100 says in 9 minutes: right, fast, does it fit; a page and a JSON in runs/gpu

VENV ?= .venv
LOWEST ?= .venv-lowest
SEED ?= 0
# one test process a core, a file of tests to one of them: files share what is dear to make
PYTEST := pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# any Python >= 3.11, the plain name first; PYTHON=... chooses one
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
NEEDS_PYTHON = @test -n "$(PYTHON)" || \
	{ echo "no Python >= 3.11 found; name one with: make PYTHON=/path/to/python" >&2; exit 1; }
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := runs/demo-$(SEED)

.PHONY: install demo photos lint check test lowest format bench bench-gpu

install: $(STAMP)

$(STAMP): pyproject.toml setup.py
	$(NEEDS_PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/neo-lightning data scenes --out $(RUN)/scenes --seed $(SEED)
	$(BIN)/neo-lightning run recipes/demo.yaml --run.name=demo-$(SEED) --seed_everything=$(SEED)
	@echo "report: $(RUN)/report.html"

# each input with the format that it has
PHOTOS := llava/photos.json messages/clips_and_pairs.jsonl llava/held_out.json

photos: $(STAMP)
	$(BIN)/python tests/real/media.py runs/photos/media
	@set -e; for input in $(PHOTOS); do file=$${input#*/}; \
		$(BIN)/neo-lightning data import --format $${input%/*} --input tests/real/$$file --media runs/photos/media \
			--out runs/photos/$${file%.*}; done
	NEO_DATA=runs/photos NEO_MODEL=$(RUN)/export $(BIN)/neo-lightning run photos_lora

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m $(PYTEST) -m "not slow"

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m $(PYTEST)

lowest: $(LOWEST)/.installed
	NEO_LOWEST=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m $(PYTEST) -m "not slow"

$(LOWEST)/.installed: pyproject.toml
	$(NEEDS_PYTHON)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv    # pip has no way to take the lowest versions
	$(LOWEST)/bin/python -m uv pip install --python $(LOWEST)/bin/python --upgrade --resolution lowest-direct -e '.[dev]'
	touch $@

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	@for name in attention decode qk_norm_rope loss image_path video_path loader plan_scale step lora; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done
	@echo "== memory"; OMP_NUM_THREADS=1 $(BIN)/python benchmarks/memory.py    # other threads take scratch as well

bench-gpu: $(STAMP)
	@$(BIN)/python benchmarks/gpu
