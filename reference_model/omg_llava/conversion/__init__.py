"""Official checkpoints to one folder that `omg_llava.checkpoint.load_model` loads."""
