"""Code that experimental adapters share: base classes, presets, and initialisations from gradients."""
