# Each target prints what it runs. PIP_ARGS passes options on to pip, for example
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PROMPT ?= red apple, twemoji style
SEED ?= 0
BIN = .venv/bin
LESSONS = notebooks/*.ipynb notebooks/solutions/*.ipynb
NBVAL = -p no:cacheprovider --nbval --nbval-current-env --nbval-cell-timeout 300 \
	--nbval-sanitize-with notebooks/sanitize.cfg

.PHONY: help demo test lessons notebooks browser docs train train-lessons lint

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

demo: .venv/ok   ## set up, and draw nine pictures of PROMPT with SEED into demo.png
	$(BIN)/minidalle generate "$(PROMPT)" -n 9 --seed $(SEED) -o demo.png --timings

test: .venv/ok   ## set up, and run every test, then every lesson
	$(BIN)/python -m pytest
	$(MAKE) lessons

lessons: .venv/ok  ## run every lesson and compare its outputs with those stored, two at a time
	ls $(LESSONS) | xargs -P 2 -n 1 $(BIN)/python -m pytest $(NBVAL)

notebooks: .venv/ok  ## run every lesson and store its outputs, two at a time
	ls $(LESSONS) | xargs -P 2 -n 1 $(BIN)/python notebooks/execute.py

browser: .venv/ok  ## click through the widgets in a real JupyterLab; needs Debian's chromium
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e .[browser]
	$(BIN)/python -m pytest tests/browser

docs: .venv/ok   ## build the documentation into build/docs, offline, and check its links and examples
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e .[docs]
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs && $(BIN)/python -m pytest tests/docs

train: .venv/ok  ## train a model like the embedded one from its data, in six runs into runs/
	$(BIN)/minidalle train vqgan --run runs/vqgan-1
	$(BIN)/minidalle train vqgan --preset emoji-finish --set init=runs/vqgan-1 --run runs/vqgan-2
	$(BIN)/minidalle train vqgan --preset emoji-crisp --set init=runs/vqgan-2 --run runs/vqgan
	$(BIN)/minidalle train bart --vqgan runs/vqgan --run runs/bart-1
	$(BIN)/minidalle train bart --preset emoji-finish --vqgan runs/vqgan --set init=runs/bart-1 --run runs/bart
	$(BIN)/minidalle train clip --model runs/bart --run runs/emoji

train-lessons: .venv/ok  ## train again what the lessons are shipped with
	$(BIN)/python -m minidalle.lessons.train_faces
	$(BIN)/python -m minidalle.lessons.train_shapes
	$(BIN)/python -m minidalle.lessons.scaling

lint: .venv/ok   ## check style and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

.venv/ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_ARGS) -c constraints.txt -e .[dev]
	touch .venv/ok
