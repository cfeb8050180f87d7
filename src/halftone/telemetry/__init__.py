"""Every metric that Halftone exports, and every name that it reads from others."""
