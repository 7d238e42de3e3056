"""Write a checkpoint of any method as a folder that Hugging Face transformers loads.

RoBERTa, RoBERTa-PreLayerNorm and MPNet (T5's relative positions) need no code of ours; for other encoders,
and for AMOS's discriminator, a modelling file lies beside the weights, which trust_remote_code=True takes.

Example:
  fairseq-masking export --checkpoint checkpoint_best.pt --out model
"""

import argparse

from fairseq_masking.cli.options import add_shared


def add_options(parser: argparse.ArgumentParser) -> None:
    add_shared(parser, "checkpoint", "of any method, or a fine-tuned one")
    add_shared(parser, "out", "folder to make", metavar="DIR", required=True)
    add_shared(parser, "data", "data that it was trained on (default: as stored in it)")
    parser.add_argument("--head", metavar="NAME", help="classification head to take along, where it has several")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.checkpoints.hugging_face import export_checkpoint
    from fairseq_masking.compat import hides_torchaudio

    written = export_checkpoint(args.checkpoint, args.out, data=args.data, head=args.head)
    code = ", trust_remote_code=True" if written.remote_code else ""
    print(f"{args.out}: {written.architecture}; AutoModel.from_pretrained({str(args.out)!r}{code}) loads it")
    if written.remote_code:
        print(f"its tokenizer asks for no trust: PreTrainedTokenizerFast.from_pretrained({str(args.out)!r})")
    if hides_torchaudio():
        print(
            "the torchaudio of this environment does not load, and in a process of its own transformers fails with it:"
            " pip uninstall torchaudio (nothing here needs it)"
        )
