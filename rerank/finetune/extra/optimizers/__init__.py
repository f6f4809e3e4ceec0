"""Experimental optimizers. Each module defines one optimizer as a plug-in."""
