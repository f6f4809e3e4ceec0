"""Training losses: functions of model outputs and a label. Each module defines one loss as a plug-in."""
