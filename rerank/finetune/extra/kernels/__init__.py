"""Computations of experimental training components, which import torch, peft or trl."""
