"""How a solve is executed: eager, compiled, as CUDA graphs, by ONNX Runtime."""
