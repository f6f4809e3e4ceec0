"""Training losses: functions of model outputs and a label, one plug-in per file."""
