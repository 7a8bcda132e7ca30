"""The calibration artefact: save, load, verify."""
