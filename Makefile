# Every target sets up what it needs.  `make demo` and `make test` are the two to know.
.PHONY: dist readme harness fuzz bench-pair hls depth zoo exports torch notebooks cosim bench setup-test rtl rtl-full formal mutations synth real designs help setup demo models test lint types unit docs verify eval clean
.DELETE_ON_ERROR:

MEADOWC := .venv/bin/meadowc
PYTEST := .venv/bin/pytest
TORCH := build/torch/bin
PACKAGES := boards cli compiler evidence hls machine rtl runtime serve speculate targets toolchain

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup:  ## prepare .venv, and nothing else
	@bash .ci/setup

setup-test:  ## the same, with Icarus and Chromium for the tests
	@bash .ci/setup test

demo: build/smollm2  ## a real language model on an emulated ZCU102, and the ladder
	$(MEADOWC) run build/smollm2 -p "What is the capital of France? Answer in one sentence."
	$(MEADOWC) verify build/smollm2 --limit 3 --tokens 8

models: build/smollm2 build/smollm2-tensor build/smollm2-int4  ## every package that the benchmarks use

.PHONY: build/smollm2 build/smollm2-tensor build/smollm2-int4
build/smollm2-int4: models/smollm2/model.onnx
	$(MEADOWC) compile models/smollm2/model.onnx --board zcu102 -o $@

build/smollm2: models/smollm2-int8/model.onnx
	$(MEADOWC) compile models/smollm2-int8/model.onnx --board zcu102 -o $@

build/smollm2-tensor: models/smollm2-tensor/model.onnx
	$(MEADOWC) compile models/smollm2-tensor/model.onnx --board zcu102 --packing prefix -o $@

models/smollm2/model.onnx: | setup
	$(MEADOWC) convert "$$($(MEADOWC) fetch smollm2 | head -n 1)" -o models/smollm2

models/smollm2-int8/model.onnx: models/smollm2/model.onnx
	$(MEADOWC) quantize models/smollm2 -o models/smollm2-int8 --weights int8 --granularity channel --activations int8

models/smollm2-tensor/model.onnx: models/smollm2/model.onnx
	$(MEADOWC) quantize models/smollm2 -o models/smollm2-tensor --weights int8 --granularity tensor --activations int8

test: lint types unit  ## lint, types and every test that needs no real model

lint: setup-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup-test links
	MYPYPATH=build/types .venv/bin/mypy -p meadow --namespace-packages --explicit-package-bases
	MYPYPATH=build/types:tests .venv/bin/mypy --namespace-packages --explicit-package-bases $(shell git ls-files 'tests/*.py')

rtl: setup-test  ## the Verilog under cocotb and Icarus (MEADOW_WAVES=1 keeps the waves)
	$(PYTEST) tests/rtl

mutations: setup-test  ## faults planted in the Verilog, the Python and the C++, each caught by its test (20 minutes)
	$(PYTEST) tests/rtl/test_mutations.py tests/test_mutations.py -m mutation -n 2

fuzz: setup-test  ## 20,000 damaged inputs of every kind: no traceback, hang, death or write outside (half an hour)
	cd tests && ../.venv/bin/python -m fuzz.run --inputs 20000

formal: setup-test  ## the FIFO proved by a SAT solver: nothing lost, doubled or changed under stalls
	.venv/bin/python -m pip install -qq "pyosys>=0.70"
	.venv/bin/python tests/rtl/formal.py > /dev/null

rtl-full: build/smollm2-int4  ## the rung of Verilog: whole matrices of SmolLM2 in Verilator (a minute)
	$(MEADOWC) verify build/smollm2-int4 --rungs emulator,rtl --limit 1 --tokens 1

notebooks: build/smollm2  ## docs/notebooks executed on the emulated board, with their outputs in build/notebooks (copy them to docs/notebooks to keep them)
	.venv/bin/python tests/notebooks.py build/smollm2 build/notebooks

cosim: build/smollm2-int4 build/smollm2  ## the first layer of SmolLM2: the board's driver, the C++ and the Verilog against each other
	$(MEADOWC) cosim build/smollm2-int4
	$(MEADOWC) cosim build/smollm2

bench: models  ## every benchmark of the README (minutes)
	$(MEADOWC) bench packing build/smollm2-tensor
	$(MEADOWC) bench packing build/smollm2
	$(MEADOWC) bench traffic build/smollm2
	$(MEADOWC) bench paper
	$(MEADOWC) bench emulator build/smollm2
	$(MEADOWC) bench bus build/smollm2-int4
	$(MEADOWC) bench decode build/smollm2-int4 --board zcu102
	$(MEADOWC) bench decode build/smollm2-int4 --board kv260
	$(MEADOWC) bench decode build/smollm2
	$(MEADOWC) bench prefill build/smollm2-int4
	$(MEADOWC) bench prefill build/smollm2
	$(MEADOWC) bench bus build/smollm2

FETCHED = $$($(MEADOWC) fetch $(1) | head -n 1)
bench-pair: setup  ## Qwen2.5-Coder-0.5B drafts for 1.5B (1.6 GB are fetched; a quarter of an hour)
	$(MEADOWC) compile "$(call FETCHED,qwen2.5-coder-0.5b)" --board zcu102 -o build/qwen --set context=1024
	$(MEADOWC) bench speculate build/qwen --target "gguf:$(call FETCHED,qwen2.5-coder-1.5b)" --device emulator --prompts 8 -n 24

hls: setup-test  ## what a synthesis tool would say of the emitted C++, of every board and engine (7 minutes)
	cd tests && ../.venv/bin/python -m rules.check

depth: models  ## the slowest path of every Verilog module of the designs of every board, beside its clock (an hour)
	.venv/bin/python -m pip install -qq "pyosys>=0.70"
	$(MEADOWC) bench depth models/smollm2 models/smollm2-int8 models/smollm2-tensor

synth: setup  ## what the Verilog costs, by Yosys (minutes)
	.venv/bin/python -m pip install -qq "pyosys>=0.70"
	$(MEADOWC) bench rtl

unit: setup-test
	$(PYTEST) -n 2

docs: setup-test  ## the documentation as a site in build/site, warnings are errors; docs/isa.md from the table of instructions
	.venv/bin/python -c "from meadow.machine.instructions import table; open('docs/isa.md', 'w').write(table.markdown())"
	$(MAKE) -s links
	.venv/bin/mkdocs build --strict --quiet

pictures: models  ## the pictures of README and docs anew, from what the commands print
	.venv/bin/python docs/pictures/make.py

.PHONY: pictures links
links:  # the package as a tree of that name, for tools that read and do not import
	@mkdir -p build/types/meadow
	@for d in $(PACKAGES); do ln -sfn ../../../$$d build/types/meadow/$$d; done; for f in api/*.py; do ln -sfn ../../../$$f build/types/meadow/; done

verify: build/smollm2  ## the whole ladder on SmolLM2 (minutes)
	$(MEADOWC) verify build/smollm2 --rungs onnx,graph,emulator,csim --tokens 16

designs: models/smollm2-int8/model.onnx  ## SmolLM2 for two boards, half the lanes, both dataflows: one digest
	@for options in "zcu102" "kv260" "zcu102 --set token_lanes=4 --set weight_ports=2" "zcu102 --dataflow gemm" \
	    "zcu102 --dataflow tphs" "zcu102 --design meadow-paper"; do \
	  $(MEADOWC) compile models/smollm2-int8/model.onnx -o build/designs/one --board $$options --json >/dev/null; \
	  for device in emulator csim; do \
	    $(MEADOWC) run build/designs/one --device $$device -p "What is the capital of France?" -n 8 --json \
	      | .venv/bin/python -c "import json, sys; print(json.load(sys.stdin)['digest'], '$$device', '$$options')"; \
	  done; \
	done

eval: models  ## perplexity on Wikipedia text beside onnxruntime (minutes)
	$(MEADOWC) eval build/smollm2 --text wikipedia --windows 12
	$(MEADOWC) eval build/smollm2-tensor --text wikipedia --windows 12
	$(MEADOWC) eval build/smollm2-int4 --text wikipedia --windows 12

real: models  ## the tests that need the real model
	$(PYTEST) -m real

zoo: setup-test exports  ## every family by every exporter, every spelling, and the files of ZOO=FOLDER, on the ladder: build/zoo.json, docs/models.md (20 minutes)
	cd tests && ../.venv/bin/python zoo.py ../build/exports $(ZOO)

build/harness/ready: pyproject.toml
	python3 -m venv build/harness
	build/harness/bin/python -m pip install -qq --disable-pip-version-check --editable '.[lm-eval]' pytest pytest-timeout
	touch $@

dist: setup-test  ## wheel and sdist in dist/
	@mkdir -p build && rm -rf dist && { .venv/bin/python -m build -o dist . > build/dist.log 2>&1 || { cat build/dist.log; exit 1; }; }
	.venv/bin/python -m twine check --strict dist/*

readme: dist  ## the README's commands from the wheel in a clean environment, with the real model (minutes)
	rm -rf build/readme && python3 -m venv build/readme/env
	build/readme/env/bin/python -m pip install -q --disable-pip-version-check "$$(echo dist/*.whl)[compile,reference,serve,pynq,verilog]"
	.venv/bin/python tests/readme.py build/readme/env/bin build/readme/work

harness: build/harness/ready  ## lm-evaluation-harness on a package, against onnxruntime (a gigabyte of libraries in build/harness)
	build/harness/bin/python -m pytest tests/harness

build/torch/ready: pyproject.toml
	python3 -m venv build/torch
	$(TORCH)/python -m pip install -qq --disable-pip-version-check torch==2.13.0
	$(TORCH)/python -m pip install -qq --disable-pip-version-check --editable '.[torch]' optimum-onnx==0.1.0 pytest pytest-timeout
	$(TORCH)/python -m pip install -qq --disable-pip-version-check --no-deps onnxruntime-genai==0.11.4
	touch $@

exports: build/torch/ready  ## small random models of every family by four exporters and in three formats: build/exports (10 minutes)
	$(TORCH)/python tests/exports.py build/exports

torch: build/torch/ready  ## the tests of meadow export and of the rung torch (PyTorch in build/torch)
	$(TORCH)/python -m pytest tests/pytorch

clean:
	rm -rf build models .venv *.egg-info
