# Everything is installed into .venv; system packages are named before they are installed.
PYTHON ?= python3
BIN := .venv/bin
BPF := tproxy/steer/sk_lookup.bpf.o
PYTEST := $(BIN)/python -m pytest -q

.PHONY: demo test lint unit fuzz chart manifest kernel lab e2e bpf setup requirements clean

demo: .venv/.demo bpf ## run the main job in a lab on this machine; STEP=1 waits for Enter between steps
	@$(BIN)/python demo/run.py $(if $(STEP),--step)

test: setup lint unit chart kernel lab ## everything that must hold

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(PYTEST) tests/unit

fuzz: setup ## look for input that breaks the HTTP routers, for SECONDS (600); led by atheris if that is installed
	$(BIN)/python -m tests.unit.http.fuzz $(if $(SECONDS),--seconds $(SECONDS))

chart: setup ## the Helm chart: lint, what it renders, what it refuses
	@helm=$$(.ci/helm) && HELM=$$helm $(PYTEST) tests/chart

manifest: setup ## dist/tproxy.yaml: the chart with its own values, for people without Helm
	@mkdir -p dist
	@helm=$$(.ci/helm) && HELM=$$helm $(BIN)/python charts/manifest.py >dist/tproxy.yaml.new
	@mv dist/tproxy.yaml.new dist/tproxy.yaml && echo dist/tproxy.yaml

kernel: setup ## real steering in network namespaces; needs root
	$(PYTEST) tests/kernel

lab: setup ## daemons and command line end to end in the lab; needs root
	$(PYTEST) tests/lab

# $KUBECONFIG names a cluster that is there already; $NODE_IMAGE_NAME is then the image its nodes have or can pull.
e2e: setup ## a real Kubernetes of two nodes, with the chart; builds Kubernetes once (8 minutes); needs root
	@helm=$$(.ci/helm) && export HELM=$$helm && if [ -n "$$KUBECONFIG" ]; then $(PYTEST) tests/e2e; else \
	    PYTHON=$(PYTHON) .ci/system-packages e2e && \
	    assets=$$(.ci/kubernetes) && dns=$$(.ci/coredns) && image=$$(.ci/node-image) && \
	    KUBEBUILDER_ASSETS=$$assets COREDNS=$$dns NODE_IMAGE=$$image $(PYTEST) tests/e2e; fi

setup: .venv/.installed bpf

# What the demo needs first, so that a newcomer waits for no more; the tests' on top of that.
.venv/.demo: requirements/lab.txt setup.cfg pyproject.toml .ci/system-packages
	@PYTHON=$(PYTHON) .ci/system-packages demo
	@echo "Installing Python packages into .venv (requirements/lab.txt)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/lab.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.installed: .venv/.demo requirements/dev.txt
	@PYTHON=$(PYTHON) .ci/system-packages test
	@echo "Installing more Python packages into .venv (requirements/dev.txt)"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

bpf: .venv/.demo
	@$(MAKE) --no-print-directory -C bpf

requirements: ## resolve the pinned requirements afresh
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q setup.cfg --universal --python-version 3.11 --generate-hashes --no-header \
	    -o requirements/cli.txt
	$(BIN)/uv pip compile -q setup.cfg --extra node --universal --python-version 3.11 --generate-hashes --no-header \
	    -c requirements/cli.txt -o requirements/node.txt
	$(BIN)/uv pip compile -q setup.cfg requirements/lab.in --extra node --extra lab --universal \
	    --python-version 3.11 --generate-hashes --no-header -c requirements/node.txt -o requirements/lab.txt
	$(BIN)/uv pip compile -q setup.cfg requirements/lab.in requirements/dev.in --extra node --extra lab --universal \
	    --python-version 3.11 --generate-hashes --no-header -c requirements/lab.txt -o requirements/dev.txt

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	$(MAKE) --no-print-directory -C bpf clean
