"""OMG-LLaVA (NeurIPS 2024), the reference model of omgbench, usable without it.

A model that chats about a picture, points at things in it with masks, and is pointed at: a perception network
(OMG-Seg) that finds objects with or without prompts, a language model, and two small bridges between them.

Read in this order:

| module | what it tells |
|---|---|
| `config` | sizes, options, label spaces |
| `preprocessing`, `resize` | pictures, points, boxes and masks into the network and back |
| `backbone`, `pixel_decoder` | features at four strides; mask features and three memories |
| `positions`, `features`, `decoder` | queries that draw masks and look where they drew |
| `prompts`, `visual_prompts` | points, boxes and masks as queries |
| `omg_seg` | the perception network of these parts |
| `perception_prior` | what was seen laid over the pixel tokens; which objects get a token |
| `projectors` | into the language model and back |
| `vocabulary`, `conversation`, `sequence` | words, placeholders, input embeddings |
| `language_model`, `lora` | transformers' Llama, Phi-3, Qwen2; low-rank adapters |
| `model` | all of it, and `[SEG]` to masks |
| `stopping`, `generation`, `assistant` | many questions about pictures that are looked at once |
| `wording`, `answers` | what is asked, how answers are read |
| `fusion`, `video`, `open_vocabulary`, `universal` | OMG-Seg's own jobs: panoptic, instances, clips, any label space |
| `files`, `checkpoint`, `quantization`, `conversion` | weights on disk; the official ones converted |
| `untrained`, `training` | fresh weights; losses |
| `adapter`, `look_cache`, `placing` | the model behind omgbench |
| `command`, `describe` | `python -m omg_llava` |
"""
