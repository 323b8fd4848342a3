"""Prepares what a device needs beside an exported stage, pictures and prompts, without torch and transformers.

    device_file.py   what a variant's folder says of pictures, prompts and the model's facts
    pictures.py      a picture to the tiles that the stage takes, as the processor of its family makes them
    prompts.py       a conversation to token ids, by the model's chat template and tokenizer

`splitvlm.variants.device_files` writes the file where a variant is made, with transformers, and holds both against each other.
"""
