"""Work done before serving: calibration."""
