"""DetectNet_v2: a fully convolutional detector of stride 16 with coverage and box heads."""
