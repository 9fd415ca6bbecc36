"""Runs a module that names CUDA also where there is none; what goes there stays. without_cuda.py module arguments"""

import runpy
import sys

import torch
from transformers import BatchEncoding

if not torch.cuda.is_available():
    BatchEncoding.to = lambda self, *_, **__: self
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
