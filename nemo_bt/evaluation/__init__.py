"""What rewards say about a model: accuracies of preference files and of published benchmarks. Pure Python."""
