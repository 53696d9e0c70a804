"""How XLA compiles for tests: each shape compiles anew and runs a few times at most.

To optimize a program takes more time than it saves there.
"""

CHEAP = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
