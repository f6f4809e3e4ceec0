"""Experimental adapters. Each module defines one adapter as a plug-in."""
