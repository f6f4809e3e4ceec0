"""Experimental callbacks that change a model between optimizer steps, one plug-in per file."""
