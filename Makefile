.PHONY: test check bench

# Every test, the end-to-end ones with the real SDKs included.
test:
	@tests/run.sh

# Formatting, lints, import rules, licences.
check:
	@tests/check.sh

# Side by side with llama.cpp, on this machine: about 20 minutes, and what it takes to build both.
# `benches/compare.sh --help` lists the options, other models among them.
bench:
	@benches/compare.sh
