"""GPU benchmarks on a host that reaches no registry: pack here what it lacks, and unpack it there with Python alone."""
