"""What OMG-LLaVA is asked, word for word, by kind of question (lxtGH/OMG-Seg, folder omg_llava, commit 1ae2e7d)."""

from __future__ import annotations

REFER_SEGMENT = "Please segment {text} in this image."
"""`{text}` is the referring expression, its case kept."""

REGION_CAPTION = "Can you provide me with a detailed description of the region in the picture marked by region1 <mark>?"
"""`<mark>` is replaced by the object token of the prompted region."""

REGION_CAPTIONS = "Could you describe each of these regions in detail?"
"""For several prompts, behind the sentence that names them; the wording is ours."""

GROUNDED_CAPTION = (
    "Could you please give me a detailed description of the image? "
    "Please respond with interleaved segmentation masks for the corresponding parts of the answer.",
    "Can you provide a thorough description of the this image? "
    "Please output with interleaved segmentation masks for the corresponding phrases.",
    "Please describe in detail the contents of the image. "
    "Please respond with interleaved segmentation masks for the corresponding parts of the answer.",
    "Could you give a comprehensive explanation of what can be found within this picture? "
    "Please output with interleaved segmentation masks for the corresponding phrases.",
    "Could you give me an elaborate explanation of this picture? "
    "Please respond with interleaved segmentation masks for the corresponding phrases.",
    "Could you provide me with a detailed analysis of this photo? "
    "Please output with interleaved segmentation masks for the corresponding parts of the answer.",
)
"""Asked one after the other until an answer holds a `[SEG]`. "the this" stands so in the official script."""
