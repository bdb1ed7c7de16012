# The jobs of the course; `make help` lists them. Works with GNU make 3.81 (macOS) and later.

VENV       := .venv
PY         := $(VENV)/bin/python
STAMP      := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
# What the finished environment and the wheels on their way take: most of it is PyTorch's CUDA build,
# which the registry has for Linux only.
DISK_GB    := $(if $(filter Darwin,$(shell uname -s)),3,10)

# Yours to set: PYTHON=python3.12 (for a new environment), LAB_ARGS="--no-browser --port=9000",
# LAB_FOLDER=~/teaching, TEST_ARGS="-k saliency", NOTEBOOKS="01 02" (for all jobs on notebooks),
# REPO=owner/name and REF=tag (for colab), REHEARSAL_ARGS="--again".
PYTHON     ?=
LAB_ARGS   ?=
LAB_FOLDER ?= $(CURDIR)
TEST_ARGS  ?=
NOTEBOOKS  ?=

CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python)
# Python: is this a version we support? Are all files of all installed packages there?
IN_RANGE   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
WHOLE      := import importlib.metadata as m, sys, sysconfig; \
              found = list(m.distributions(path=[sysconfig.get_paths()["purelib"]])); \
              sys.exit(not all(d.files and all(f.locate().exists() for f in d.files) for d in found))

.PHONY: lab test budgets run slides student colab colab-bundle colab-rehearsal device-rehearsal lint clean help

lab: $(STAMP) ## build the environment and open the course in JupyterLab (the default)
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; \
	$(PY) -m tests.browser.answers $$$$ $$(date +%s) & \
	exec $(PY) -m jupyterlab --ServerApp.root_dir="$(LAB_FOLDER)" \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

test: $(STAMP) ## lint, then run every test and every notebook
	@$(PY) -m ruff check .
	@echo "Running the tests and all notebooks (up to 45 minutes on 2 CPU cores)."
	@$(PY) -m pytest tests $(wildcard notebooks) \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=120 $(TEST_ARGS)

budgets: $(STAMP) ## run the notebooks and print the seconds, size and slowest cell of each
	@$(PY) -m tests.notebooks.budgets $(NOTEBOOKS)

run: $(STAMP) ## run the notebooks in place and store their outputs
	@$(PY) -m tests.notebooks.budgets --write $(NOTEBOOKS)

slides: $(STAMP) ## make a deck of each lesson in dist/slides, which needs no network
	@$(PY) -m tests.notebooks.slides $(NOTEBOOKS)

student: $(STAMP) ## make copies without solutions, outputs and speaker notes in dist/student
	@$(PY) -m tests.notebooks.student $(NOTEBOOKS)

colab: $(STAMP) ## write setup cell and badge into the notebooks: REPO=owner/name REF=tag, or REPO=none
	@$(PY) -m tests.colab.course $(if $(REPO),--repo "$(REPO)") $(if $(REF),--ref "$(REF)")

colab-bundle: $(STAMP) ## make dist/lecture7-colab.zip, all that a Colab session needs
	@$(PY) -m tests.colab.bundle

colab-rehearsal: $(STAMP) ## run the course with Colab's versions: some GB, REHEARSAL_ARGS="--again"
	@$(PY) -m tests.colab.rehearsal $(if $(PYTHON),--python "$(PYTHON)") $(REHEARSAL_ARGS) $(NOTEBOOKS)

device-rehearsal: $(STAMP) ## run the course on a stand-in for a GPU: takes a C++ compiler
	@$(PY) -m tests.device.rehearsal $(NOTEBOOKS)

lint: $(STAMP) ## check the code, the notebooks' code included
	@$(PY) -m ruff check .

clean: ## remove caches and what was built; the environment stays (rm -r .venv removes that)
	@rm -rf dist build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print \
	  | while IFS= read -r folder; do rm -rf "$$folder"; done

help: ## list the jobs
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile \
	  | while IFS='|' read -r job what; do printf '  make %-17s%s\n' "$$job" "$$what"; done

# The stamp holds the folder that the environment was made in. An environment whose folder or Python has
# moved since is made anew, like one where an interrupted installation left a package torn.
ifneq ($(shell cat $(STAMP) 2>/dev/null && $(PY) -c '$(IN_RANGE)' 2>/dev/null && echo works),$(CURDIR)works)
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml
	@stop() { echo "make: $$*" >&2; exit 1; }; \
	if [ -d $(VENV) ] && { \
	    { [ -e $(UNFINISHED) ] && ! $(PY) -c '$(WHOLE)' >/dev/null 2>&1; } \
	    || { [ -e $(STAMP) ] && [ "$$(cat $(STAMP))" != "$(CURDIR)" ]; } \
	    || ! $(PY) -c '$(IN_RANGE)' 2>/dev/null || ! $(PY) -m pip --version >/dev/null 2>&1; }; then \
	  echo "Removing .venv: its installation was torn, or its Python or folder has moved."; \
	  rm -rf $(VENV) || stop "remove the folder .venv by hand and run make again."; \
	fi; \
	if [ ! -d $(VENV) ]; then \
	  python=; bare=; \
	  for name in $(CANDIDATES); do \
	    "$$name" -c '$(IN_RANGE)' >/dev/null 2>&1 || continue; \
	    if "$$name" -c 'import venv, ensurepip' >/dev/null 2>&1; then python=$$name; break; fi; \
	    bare=$$name; \
	  done; \
	  if [ -z "$$python" ] && [ -n "$$bare" ]; then \
	    version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    stop "$$bare lacks the venv module: install it (Debian, Ubuntu: apt install python$$version-venv) and run make again."; \
	  fi; \
	  [ -n "$$python" ] || stop $(if $(PYTHON),"PYTHON=$(PYTHON) is not Python 3.11 to 3.13: name one that is and run make again.",\
	    "no Python 3.11 to 3.13 found: install one (python.org has it for every system) and run make again."); \
	  free=$$(df -Pk . 2>/dev/null | awk 'NR == 2 { print int($$4 / 1048576) }'); \
	  [ "$${free:-$(DISK_GB)}" -ge $(DISK_GB) ] \
	    || stop "the environment needs about $(DISK_GB) GB of disk and only $$free GB are free here: make room and run make again."; \
	  echo "Making the environment in .venv with $$("$$python" --version)."; \
	  mkdir $(VENV) && touch $(UNFINISHED) && "$$python" -m venv $(VENV) \
	    || stop "making .venv failed: see the lines above and run make again."; \
	fi; \
	touch $(UNFINISHED); \
	echo "Installing what pyproject.toml lists (the first time some GB and 3 to 20 minutes)."; \
	if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	$(PY) -m pip install $$quiet --disable-pip-version-check -e '.[lab,test]' \
	  || stop "the installation failed: check the network and the lines above, and run make again."; \
	$(PY) -c 'import torch, torchvision, jupyterlab, lecture7_utils' \
	  || stop "the packages are installed but do not load: see the lines above."; \
	mkdir -p $(VENV)/share/jupyter/lab/settings && printf '%s\n' \
	  '{"@jupyterlab/apputils-extension:notification":' \
	  ' {"fetchNews": "false", "checkForUpdates": false}}' \
	  > $(VENV)/share/jupyter/lab/settings/overrides.json; \
	printf '%s' "$(CURDIR)" > $(STAMP) && rm -f $(UNFINISHED)
