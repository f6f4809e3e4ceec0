"""Experimental training methods: research methods that few people use; listings mark them as experimental."""
