"""JetBlock kernels: plain-PyTorch references, Triton kernels and the dispatch between them."""
