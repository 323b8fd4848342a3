"""splitvlm: edge-cloud split inference for vision-language models."""
