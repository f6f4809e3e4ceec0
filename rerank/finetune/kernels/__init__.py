"""Computations of training components, which import torch and peft."""
