"""GPU benchmarks on a host that reaches no registry: pack here what it lacks, unpack there with nothing but Python."""
