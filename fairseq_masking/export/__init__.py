"""Models in and out: Hugging Face, fairseq's RoBERTa, released AMOS checkpoints.

| file | what it does |
|---|---|
| key_table.py | how each family of models names our parameters: one table, both directions |
| reading.py | files of others, read without running their code |
| sources.py | a checkpoint of any family as our encoder: its shape and its weights |
| vocabulary.py | which row of a source's embedding a symbol of our dictionary has |
| tokenizer_import.py | a Hugging Face folder's tokeniser as one of ours |
| tokenizer_export.py | our tokeniser as a tokenizer.json |
| hugging_face.py | a checkpoint of ours as a Hugging Face folder |
| modeling_fairseq_masking.py | the modelling file that goes with encoders that transformers does not have |
"""
