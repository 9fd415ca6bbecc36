"""Runs a module that names CUDA also where there is none; what goes there stays. without_cuda.py module arguments

A third of the module's name and a folder, as `scripts.run_rm=folder`, is a module of a folder that is not installed.
"""

import runpy
import sys
from types import ModuleType

import torch
from transformers import BatchEncoding

if not torch.cuda.is_available():
    BatchEncoding.to = lambda self, *_, **__: self
    torch.cuda.synchronize = torch.cuda.ipc_collect = lambda: None


def main():
    module, _, folder = sys.argv[1].partition("=")
    sys.argv = sys.argv[1:]
    if folder:  # rewardbench installs a package of the same name, which would be found instead
        package = module.rpartition(".")[0]
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [folder]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


main()
