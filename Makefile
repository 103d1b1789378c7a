.PHONY: test check bench

# Every test, the end-to-end ones with the real SDKs included.
test:
	@tests/run.sh

# Formatting, lints, import rules, licences.
check:
	@tests/check.sh

# Side by side with llama.cpp's server, on this machine.
bench:
	@benches/compare.sh
