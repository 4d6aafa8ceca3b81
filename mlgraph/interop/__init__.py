"""Models of other libraries, read and written: Hugging Face, timm, files of PyTorch."""
