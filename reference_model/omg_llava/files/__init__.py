"""Checkpoints and tokenizers on disk, read and written without running anything that lies in them.

`pth` reads official `.pth` files, `weights` folders of shards, `loading` puts their tensors into a module,
`shard_writer` writes such folders, `fingerprint` tells two apart, `tokenizer` reads tokenizer folders.
"""
