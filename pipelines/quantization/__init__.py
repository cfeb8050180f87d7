"""The pipeline that carries a QuantizationJob from its source to an artifact."""
