"""Experimental callbacks that change a model between optimizer steps. Each module defines one plug-in."""
