"""From a trained model to files that run elsewhere: ONNX graph, labels, compiled engine."""
