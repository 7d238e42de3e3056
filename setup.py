"""Package metadata, and the one list of what the plugin and its development need."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).parent
PLUGIN_FOLDER = "fairseq_masking/hydra"

REQUIREMENTS = [
    "ve-fairseq==0.12.3",  # fairseq's main branch with fixes for Python 3.11, where PyPI's does not import
    "torch>=2.6",
    "omegaconf>=2.2,<2.4",
    "hydra-core>=1.3,<1.4",
    "numpy>=1.26",
    "sentencepiece>=0.2.3",  # the first one that tells where in the text its pieces stand
    "sacremoses>=0.1",
    "tokenizers>=0.20",
    "rich>=13",
    "jinja2>=3.1",
    "pyyaml>=6",
    "tqdm",
    "tensorboardX>=2.6",  # or a line that advises it is the first one of each command of fairseq
    "matplotlib>=3.8",
    "scikit-learn>=1.4",
    "scipy>=1.11",
]

HUGGING_FACE = ["huggingface_hub>=0.24", "protobuf>=4.25", "safetensors>=0.4", "transformers>=4.46"]

EXTRAS = {
    "hf": HUGGING_FACE,
    "test": [
        *HUGGING_FACE,
        "import-linter>=2.1",
        "mypy==2.4.1",
        "pytest==9.2.0",
        "pytest-xdist>=3.6",
        "ruff==0.17.5",
        "setuptools>=68",
        "sybil>=9",
        "tensorboard>=2.16",
        "triton>=3.2; platform_system == 'Linux'",
        "wheel",
    ],
    "bench": ["transformers>=5"],
    "tracking": ["tensorboard>=2.16", "wandb"],
}


def _packages() -> list[str]:
    """The package without the folder whose content stands beside it, at the top level, where Hydra looks."""
    ours = find_packages(include=["fairseq_masking", "fairseq_masking.*"])
    configs = find_namespace_packages(where="configs")
    return [
        *ours,
        "fairseq_masking.configs",
        *(f"fairseq_masking.configs.{name}" for name in configs),
        *find_namespace_packages(where=PLUGIN_FOLDER),
    ]


def _readme() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


if __name__ == "__main__":
    setup(
        name="fairseq-masking",
        version="0.1.0",
        description="A fairseq plugin: text encoders by MLM, fully-explored MLM, MAP-Net, 3ML and AMOS",
        long_description=_readme(),
        long_description_content_type="text/markdown",
        license="MIT",
        python_requires=">=3.11,<3.13",
        packages=_packages(),
        package_dir={"hydra_plugins": f"{PLUGIN_FOLDER}/hydra_plugins", "fairseq_masking.configs": "configs"},
        package_data={
            "fairseq_masking.configs": ["**/*.yaml"],
            "fairseq_masking": ["py.typed", "**/README.md", "**/templates/*.html", "figures/*.yaml"],
        },
        install_requires=REQUIREMENTS,
        extras_require=EXTRAS,
        entry_points={"console_scripts": ["fairseq-masking = fairseq_masking.cli.main:main"]},
    )
