"""What Guard's engine is measured with: data, models, published methods written afresh, and the measurements."""
